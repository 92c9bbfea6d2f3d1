# -*- mode: ruby -*-
# Pattern 1: the same node several times, an address by number, one play at the end.
Vagrant.require_version ">= 2.2"

NODES  = 3
SUBNET = "172.20.8"
$prefix ||= "node"
$vm_memory ||= 2048
vm_cpus = (ENV["NODE_CPUS"] || 2).to_i

Vagrant.configure("2") do |config|
  config.vm.box = "debian/bookworm64"

  (1..NODES).each do |i|
    config.vm.define vm_name = "%s-%02d" % [$prefix, i] do |node|
      node.vm.hostname = vm_name
      node.vm.network :private_network, ip: "#{SUBNET}.#{i + 100}"
      node.vm.network "forwarded_port", guest: 6443, host: 6443 + i

      node.vm.provider :libvirt do |lv|
        lv.memory = $vm_memory
        lv.cpus = vm_cpus
        lv.nested = true
        lv.cpu_mode = "host-passthrough"
      end
      node.vm.provider :virtualbox do |vb|
        vb.memory = 1024
        vb.cpus = vm_cpus
        vb.linked_clone = true
      end

      node.vm.provision "shell", inline: "swapoff -a"
      if i == NODES
        node.vm.provision "ansible" do |ansible|
          ansible.playbook = "cluster.yml"
          ansible.limit = "all"
        end
      end
    end
  end
end

# Pattern 8: numbers for each role, addresses counted, data disks, groups for ansible.
ROLES = { mon: 1, osd: 2, client: 0 }
PUBLIC = "10.5.0"
last = 10
groups = {}

Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.ssh.private_key_path = "~/.vagrant.d/insecure_private_key"
  config.vm.box = "debian/trixie64"

  ROLES.each do |role, count|
    groups["#{role}s"] ||= []
    (0...count).each do |i|
      name = "#{role}#{i}"
      groups["#{role}s"] << name
      last += 1
      config.vm.define name do |node|
        node.vm.hostname = "ceph-#{name}"
        node.vm.network :private_network, ip: "#{PUBLIC}.#{last}"
        node.vm.provider :libvirt do |lv|
          lv.memory = 512
          2.times { |d| lv.storage :file, size: "11G", device: "vd#{(97 + d)}" } if role == :osd
        end
        if name == "osd1"
          node.vm.provision "ansible" do |ansible|
            ansible.groups = groups
            ansible.playbook = "site.yml"
          end
        end
      end
    end
  end
end

# Pattern 10: one machine, a long script, and a word that Vagrant takes without a word.
Vagrant.configure("2") do |config|
  config.vm.box = "debian/13"
  config.vm.boot_timeout = 600
  config.vm.graceful_halt_timeout = 30
  config.ssh.username = "vagrant"
  config.ssh.password = "hunter2"
  config.vm.provider("vmware_desktop") { |v| v.vmx["memsize"] = "3072"; v.vmx["numvcpus"] = 2 }
  config.vm.disk :disk, size: "40GB", primary: true
  config.vm.disk :disk, size: "1GB", name: "extra_storage"
  config.vm.network "private_network", type: "dhcp"
  config.vm.provision "shell", inline: <<-SHELL
    set -e -u -o pipefail
    cat <<EOF > /etc/motd
Path: C:\\\\dir ${HOSTNAME} '''
EOF
    adduser --disabled-password tester
  SHELL
  config.vm.provision "shell", run: "no", inline: "echo once"
  config.vm.provision "docker", images: ["debian"]
end

# Pattern 4: box and version from one variable, a disk that grows.
Vagrant.configure("2") do |config|
  box, version = (ENV["BOX"] || "debian/trixie64").split("@", 2)
  config.vm.box = box
  config.vm.box_version = version if version

  memory = 4096
  cpus = 2
  disk_size = 60
  config.vm.provider :virtualbox do |v|
    v.memory = memory
    v.cpus = cpus
    v.customize ["modifyvm", :id, "--firmware", "efi"]
  end
  config.vm.provider :libvirt do |v|
    v.memory = memory
    v.cpus = cpus
    v.machine_virtual_size = disk_size
    # The only shared folder that works there is a copy.
    config.vm.synced_folder ".", "/vagrant", type: "rsync"
  end
end

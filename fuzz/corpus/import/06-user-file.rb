# Pattern 6: a file of the user changes ports, sizes and proxies.
Vagrant.configure("2") do |config|
  host_port = 9991
  host_ip = "127.0.0.1"
  cpus = 2
  memory = 2048

  file = ENV["HOME"] + "/.tool-config"
  if File.file?(file)
    File.read(file).each_line do |line|
      key, value = line.split
      host_port = value if key == "PORT"
    end
  end

  if Vagrant.has_plugin?("vagrant-proxyconf")
    config.proxy.http = "http://proxy.example:3128"
  end

  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.synced_folder ".", "/srv/tool"
  config.vm.network "forwarded_port", guest: 9991, host: host_port, host_ip: host_ip
  config.vm.box = "debian/12"
  config.vm.provider "virtualbox" do |vb, override|
    override.vm.box = "debian/bookworm64"
    vb.memory = memory
    vb.cpus = cpus
  end
  $script = <<SCRIPT
set -e
echo "user: $(whoami) 'quoted' \\"twice\\""
SCRIPT
  config.vm.provision "shell",
    # The user, not root.
    privileged: false,
    inline: $script
end

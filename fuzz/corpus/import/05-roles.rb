# Pattern 5: servers and clients, shared set-up in a method, one primary machine.
LINUX_BASE_BOX = "bento/debian-12"
SERVERS = 2

def configure_linux(machine, cpus: nil, memory: nil)
end

def with_defaults(machine, cpus, memory = 1024)
  machine.vm.provider "virtualbox" do |v|
    v.customize ["modifyvm", :id, "--cpus", cpus, "--memory", memory.to_s]
  end
  machine.vm.provision "shell", privileged: false, path: "scripts/common.sh"
  return machine
end

Vagrant.configure("2") do |config|
  config.vm.box = LINUX_BASE_BOX
  config.vm.define "linux", autostart: true, primary: true do |m|
    with_defaults(m, 4, 2048)
    m.vm.network :forwarded_port, guest: 4646, host: 4646, auto_correct: true, host_ip: "127.0.0.1"
  end

  1.upto(SERVERS) do |n|
    name = "server-#{format('%02d', n)}"
    config.vm.define name, autostart: false do |m|
      m.vm.hostname = name
      with_defaults m, 1
    end
  end

  %w[client01 client02].each_with_index do |name, index|
    config.vm.define(name, autostart: false) { |m| with_defaults(m, index + 1) }
  end
end

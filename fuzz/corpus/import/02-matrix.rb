# Pattern 2: the system is chosen by a variable.
SYSTEMS = {
  "trixie"   => { box: "debian/trixie64",   user: "vagrant" },
  "bookworm" => { box: "debian/bookworm64", user: "vagrant" },
  "rocky"    => { box: "Rocky/9",           user: "cloud-user" },
}
system_name = ENV.fetch("SYSTEM", "trixie")
unless SYSTEMS.key?(system_name)
  abort "SYSTEM must be one of #{SYSTEMS.keys.join(', ')}"
end
chosen = SYSTEMS[system_name]

Vagrant.configure("2") do |config|
  config.vm.box = chosen[:box]
  config.ssh.username = chosen[:user]
  config.vm.box_check_update = false
  case system_name
  when "rocky", "alma"
    config.vm.provision "shell", inline: "dnf -y install git"
  when "trixie", "bookworm"
    config.vm.provision "shell", inline: "apt-get install -y git"
  end
end

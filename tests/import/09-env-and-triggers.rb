# Pattern 9: box from the environment, agent forwarding, hooks.
ANSIBLE_TAGS = ENV["ANSIBLE_TAGS"]
Vagrant.configure("2") do |config|
  config.vm.box = ENV["TRELLIS_BOX"] || "debian/bookworm64"
  config.ssh.forward_agent = true
  config.ssh.shell = %{bash -c 'BASH_ENV=/etc/profile exec bash'}
  if (ip = ENV["SITE_IP"])
    config.vm.network :private_network, ip: ip
  else
    config.vm.network :private_network, type: "dhcp"
  end
  config.trigger.after :up do |trigger|
    trigger.name = "greet"
    trigger.run_remote = { inline: "echo up" }
  end
  config.trigger.before [:halt, :destroy], run: { inline: "./backup.sh" }
  `git rev-parse HEAD`
  system("echo hello")
end

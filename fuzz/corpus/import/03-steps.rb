# Pattern 3: many named steps, picked by --provision-with.
Vagrant.configure("2") do |config|
  config.vm.box = "debian/12"
  config.vm.provision "set-up", type: "shell", run: "once" do |sh|
    sh.upload_path = "/tmp/set-up"
    sh.inline = <<~'SHELL'
      #!/usr/bin/env bash
      set -eu -o pipefail
      apt-get update
      apt-get install -y "make" 'gcc'
    SHELL
  end
  config.vm.provision "install-go", type: "shell", run: "once" do |sh|
    sh.env = {
      "GO_VERSION": ENV["GO_VERSION"] || "1.22.4",
      "PREFIX" => "/usr/local",
    }
    sh.inline = <<~SHELL
      set -eu
      curl -fsSL "https://go.example/go$GO_VERSION.linux-amd64.tar.gz" | tar -C "$PREFIX" -xz
    SHELL
  end
  config.vm.provision "test", type: "shell", run: "never", path: "script/test.sh", args: ["--race", "./..."]
  config.vm.provision "as-user", type: "shell", privileged: false, run: "always", inline: "id -un"
end

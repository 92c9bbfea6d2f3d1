# Pattern 7: settings in YAML files, folders and sites in lists, names of other hosts.
require "yaml"
require_relative "lib/merge"
settings = YAML.load_file(File.join(__dir__, "default.config.yml"))
local = { "folders" => [{ "map" => "~/code", "to" => "/srv/code" }], "sites" => %w[shop blog] }

Vagrant.configure("2") do |config|
  config.vm.box = settings["vagrant_box"]
  config.vm.hostname = "Drupal_VM.test"
  config.vm.post_up_message = "Sites: #{local["sites"].map { |s| "http://#{s}.test" }.join(", ")}"
  local["folders"].each do |folder|
    config.vm.synced_folder folder["map"], folder["to"], type: "nfs"
  end
  local["sites"].each do |site|
    config.vm.provision "site #{site}", type: "shell", path: "scripts/site.sh", args: [site, "/srv/code/#{site}"]
  end
  config.vm.provision "file", source: "~/.gitconfig", destination: "$HOME/.gitconfig"
  if config.respond_to?(:hostmanager)
    config.hostmanager.enabled = true
  end
  config.vm.network :public_network, bridge: "eth0"
end

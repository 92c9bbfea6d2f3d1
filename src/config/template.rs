//! The file that `rvm init` writes.

/// A short commented `Vagrantfile` for one machine that starts from `box_name`.
pub fn template(box_name: &str) -> String {
    // A TOML string, whatever the caller passes.
    let box_name = toml::Value::String(box_name.to_owned());
    format!(
        r#"# Vagrantfile (TOML): the machines of this project. `rvm up` brings them up.

box = {box_name}
cpus = 1
memory = "1GiB"
# disk = "10GiB"                    # the box's own size unless set

# A port of this host that leads into the machine:
# [[port]]
# guest = 80
# host = 8080

# Steps that set the machine up, in this order. Each runs until it has succeeded once.
# [[provision]]
# name = "web server"
# packages = ["nginx"]
#
# [[provision]]
# name = "greeting"
# env = ["GREETING"]                # this name of the .env file reaches this step alone
# shell = 'echo "$GREETING" > /var/www/html/index.html'
"#
    )
}

//! Ruby Vagrantfiles → TOML that the configuration takes, and what is told of the rest.
//!
//! `tests/import/` has a file for each of ten patterns of real projects.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rvm::config;
use rvm::import::{self, ImportError, Imported, Sort};
use rvm::model::Project;

fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn imported(source: &str) -> Imported {
    import::import(source, "Vagrantfile").unwrap_or_else(|error| panic!("{error}:\n{source}"))
}

/// What `config` makes of the TOML, in a folder that has the files which the samples name.
fn load(toml: &str) -> Project {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "script/test.sh",
        "scripts/common.sh",
        "scripts/site.sh",
        ".gitconfig",
        "site.yml",
        "cluster.yml",
        "infrastructure-playbooks/site.yml",
        "dev.yml",
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "true\n").unwrap();
    }
    std::fs::create_dir(dir.path().join("code")).unwrap();
    let file = dir.path().join("Vagrantfile.toml");
    std::fs::write(&file, toml).unwrap();
    let home = dir.path().to_str().unwrap().to_owned();
    config::load(&file, &|name| (name == "HOME").then(|| home.clone()))
        .unwrap_or_else(|error| panic!("{toml}\n{}", error.render(false)))
}

/// A configuration of one block with these lines.
fn block(lines: &str) -> String {
    format!("Vagrant.configure(\"2\") do |config|\n{lines}\nend\n")
}

/// The machine that those lines declare.
fn one(lines: &str) -> rvm::model::Machine {
    load(&imported(&block(lines)).toml).machines.remove(0)
}

/// Line and reason of what those lines lose, counted from the first of them.
fn lost(lines: &str) -> Vec<(usize, String)> {
    let left = imported(&block(&format!("config.vm.box = \"micro\"\n{lines}"))).left;
    left.into_iter()
        .filter(|left| left.sort == Sort::Lost)
        .map(|left| (left.line.saturating_sub(3), left.reason))
        .collect()
}

macro_rules! patterns {
    ($($test:ident: $file:literal, $machines:expr;)+) => {
        $(#[test]
        fn $test() {
            let imported = imported(&sample($file));
            let project = load(&imported.toml);
            let names: Vec<&str> = project.machines.iter().map(|machine| machine.name.as_str()).collect();
            assert_eq!(names, $machines);
            insta::assert_snapshot!(imported.toml);
        })+
    };
}

patterns! {
    nodes_in_a_loop: "01-loop.rb", ["node-01", "node-02", "node-03"];
    a_matrix_of_systems: "02-matrix.rb", ["default"];
    named_steps: "03-steps.rb", ["default"];
    the_box_from_the_environment: "04-box-from-env.rb", ["default"];
    roles_and_a_shared_method: "05-roles.rb", ["linux", "server-01", "server-02", "client01", "client02"];
    a_file_of_the_user: "06-user-file.rb", ["default"];
    settings_in_yaml: "07-yaml.rb", ["default"];
    counted_roles: "08-counted-roles.rb", ["mon0", "osd0", "osd1"];
    environment_and_triggers: "09-env-and-triggers.rb", ["default"];
    one_machine_with_a_long_script: "10-one-machine.rb", ["default"];
}

#[test]
fn a_file_that_is_carried_over_in_full() {
    let imported = imported(&block(
        "config.vm.box = 'debian/13'\nconfig.vm.hostname = 'web'\n\
         config.vm.provision 'shell', inline: 'echo $HOME'",
    ));
    assert!(imported.is_complete(), "{:?}", imported.left);
    insta::assert_snapshot!(imported.toml, @r#"
    # Made by `rvm import` from the Ruby file Vagrantfile.

    box = "debian/13"
    hostname = "web"

    [[provision]]
    shell = "echo $HOME"
    "#);
}

#[test]
fn what_is_written_means_what_ruby_means() {
    let machine = one("config.vm.box = 'micro'\nname = %w[a b].map(&:upcase) rescue nil\n\
        config.vm.provider('qemu') { |v| v.memory = 2 ** 9; v.cpus = 5 / 2 }\n\
        config.vm.provision 'shell', inline: \"a='#{[1, 2, 3].join(\"-\")}'\\n\" + 'echo \"$a\" ${b} \\\\n'");
    assert_eq!((machine.cpus, machine.memory), (2, 512 << 20));
    let rvm::model::StepKind::Shell { script: rvm::model::Script::Inline(script), .. } =
        &machine.steps[0].kind
    else {
        panic!("{:?}", machine.steps)
    };
    assert_eq!(script, "a='1-2-3'\necho \"$a\" ${b} \\n");
}

#[test]
fn variables_of_the_environment_stay_open() {
    let source = block(
        "config.vm.box = ENV['BOX'] || 'micro'\nconfig.vm.hostname = \"web-#{ENV.fetch('STAGE', 'dev')}\"\n\
         n = (ENV['CPUS'] || 2).to_i\nconfig.vm.provider('libvirt') { |v| v.cpus = n }\n\
         config.vm.network 'forwarded_port', guest: 80, host: ENV['PORT']",
    );
    let imported = imported(&source);
    assert!(imported.is_complete(), "{:?}", imported.left);
    for line in [
        "box = \"${BOX:-micro}\"",
        "hostname = \"web-${STAGE:-dev}\"",
        "cpus = \"${CPUS:-2}\"",
        "host = \"${PORT}\"",
    ] {
        assert!(imported.toml.contains(line), "{line} is not in\n{}", imported.toml);
    }
    let literal = one("config.vm.box = 'micro'\nconfig.vm.post_up_message = 'see ${HOME}'");
    assert_eq!(literal.message.as_deref(), Some("see ${HOME}"));
}

#[test]
fn every_line_that_is_lost_is_told_with_its_number() {
    for (lines, line, reason) in [
        ("x = 1\nconfig.vm.synced_folder 'a', '/b', type: 'afs'", 1, "shared folders of type `afs`"),
        ("config.vm.synced_folder '.', '/etc'", 0, "does not need itself"),
        ("config.vm.synced_folder '.', '/b', owner: x", 0, "x"),
        ("config.vm.hostname = `hostname`", 0, "runs nothing"),
        ("config.vm.hostname = IO.read('x')", 0, "reads no other file"),
        ("config.vm.hostname = undefined_name", 0, "not defined in this file"),
        ("config.vm.no_such_key = 1", 0, "no counterpart"),
        ("config.nonsense.key = 1", 0, "plug-in"),
        ("config.vm.provision 'chef_solo' do |chef|\n chef.add_recipe 'x'\nend", 0, "`chef_solo`"),
        ("config.vm.provision 'shell', inline: 'a', path: 'b'", 0, "one of `inline` and `path`"),
        ("config.vm.provision 'shell', inline: ''", 0, "an empty script"),
        ("config.vm.provision 'shell', path: 'https://x.example/y.sh'", 0, "downloaded"),
        ("config.vm.provision 'shell', inline: 'a', args: '$(b)'", 0, "a shell would fill in"),
        ("config.vm.network 'forwarded_port', guest: 0, host: 80", 0, "from 1 to 65535"),
        ("config.vm.network 'forwarded_port', guest: 80, host: 80, host_ip: 'web'", 0, "no address"),
        ("config.vm.provider('virtualbox') { |v| v.memory = 1 }", 0, "from 64"),
        ("config.vm.provider('docker') { |d| d.image = 'x' }", 0, "`docker` has no counterpart"),
        ("config.vm.communicator = 'winrm'", 0, "SSH only"),
        ("class Helper\n def x; end\nend", 0, "a class or module"),
        ("while true\nend", 0, "a loop without a list"),
        ("[1].each(&block)", 0, "handed on"),
        ("if 1 +\nend", 1, "Ruby would not read this"),
        ("(1..1_000_000_000).each { |i| config.vm.define \"m#{i}\" }", 0, "rounds"),
        ("(1..300).each { |i| config.vm.define \"m#{i}\" }", 0, "more than 256 machines"),
        ("def f(x)\n f(x)\nend\nf(1)", 1, "without end"),
    ] {
        let lost = lost(lines);
        let told = lost.iter().any(|(at, why)| *at == line && why.contains(reason));
        assert!(told, "{lines}\n{lost:?}");
    }
}

#[test]
fn shared_folders() {
    let imported = imported(&block(
        "config.vm.box = 'micro'\n\
         config.vm.synced_folder '.', '/vagrant', disabled: true\n\
         config.vm.synced_folder '.', '/srv/app', type: 'nfs', mount_options: ['ro,noatime', 'vers=3']\n\
         config.vm.synced_folder '.', '/srv/app/', create: true, owner: 'www-data', group: 'adm'\n\
         config.vm.synced_folder '.', '/srv/copy', type: 'rsync', rsync__exclude: ['.git/', 'x'],\n\
           rsync__args: ['-a'], rsync__auto: false, group: 'www-data'\n\
         config.vm.synced_folder '.', '/srv/ro', mount_options: ['ro', 'dmode=775']",
    ));
    let machine = load(&imported.toml).machines.remove(0);
    let guests: Vec<_> = machine.folders.iter().map(|folder| folder.guest.as_str()).collect();
    assert_eq!(guests, ["/srv/app", "/srv/copy", "/srv/ro"]);
    insta::assert_snapshot!(imported.toml);
}

#[test]
fn no_secret_of_the_file_is_repeated() {
    let imported = imported(&block("config.vm.box = 'micro'\nconfig.ssh.password = 'hunter2'"));
    assert!(!format!("{imported:?}").contains("hunter2"), "{imported:?}");
}

#[test]
fn names_and_ports_that_clash_are_mended() {
    let source = block(
        "config.vm.box = 'micro'\nconfig.vm.hostname = 'all'\n\
         config.vm.network 'forwarded_port', guest: 22, host: 2000\n\
         config.vm.provision 'set up', type: 'shell', inline: 'echo 1'\n\
         ['Web_1', 'web-1', 'web.1'].each do |name|\nconfig.vm.define name, primary: true do |m|\n\
         m.vm.hostname = 'same'\nm.vm.network 'forwarded_port', guest: 80, host: 8080\n\
         m.vm.provision 'set up', type: 'shell', inline: 'echo 2'\nend\nend",
    );
    let project = load(&imported(&source).toml);
    let names: Vec<&str> = project.machines.iter().map(|machine| machine.name.as_str()).collect();
    assert_eq!(names, ["web-1", "web-1-2", "web-1-3"]);
    assert_eq!(project.machines[0].hostname, "same");
    assert_eq!(project.machines[1].hostname, "web-1-2");
    assert_eq!(project.machines.iter().filter(|machine| machine.primary).count(), 1);
}

#[test]
fn a_port_for_ssh_is_kept_where_one_is_asked_for() {
    let ssh = "config.vm.network 'forwarded_port', id: 'ssh', guest: 22, host: 2200";
    let port = |more: &str| {
        let source = block(&format!("config.vm.box = 'micro'\n{more}"));
        let project = load(&imported(&source).toml);
        project.machines.iter().map(|machine| machine.ssh.port).collect::<Vec<_>>()
    };
    assert_eq!(port(ssh), [Some(2200)]);
    assert_eq!(port("config.ssh.port = 2201"), [Some(2201)]);
    for any in [
        format!("{ssh}, auto_correct: true"),
        format!("{ssh}, disabled: true"),
        format!("{ssh}\nconfig.vm.define 'a'\nconfig.vm.define 'b'"),
    ] {
        assert!(port(&any).iter().all(Option::is_none), "{any}");
    }
    let each = "(1..2).each { |i| config.vm.define(\"m#{i}\") { |m| m.vm.network 'forwarded_port', \
                guest: 22, host: 2200 + i, id: 'ssh', host_ip: '0.0.0.0' } }\n\
                config.vm.define('c') { |m| m.ssh.port = 2202\n\
                m.vm.network 'forwarded_port', guest: 80, host: 2201 }";
    assert_eq!(port(each), [Some(2201), Some(2202), None]);
    let left = lost(each);
    for why in [
        "SSH is had from this host alone",
        "several machines cannot have one port for SSH",
        "lets this one move",
    ] {
        assert!(left.iter().any(|(_, said)| said.contains(why)), "{left:?}");
    }
}

#[test]
fn triggers_are_hooks() {
    use rvm::model::{Hooked, Moment, Side, StepKind};
    let source = block(
        "config.vm.box = 'micro'\n\
         config.trigger.after :up, :reload, name: 'greet', run: { inline: 'echo up' }\n\
         config.trigger.before [:halt, :destroy] do |t|\nt.only_on = ['db']\nt.on_error = :continue\n\
         t.run_remote = { inline: 'dump', privileged: false }\nend\n\
         config.trigger.before :up, run_remote: { inline: 'never' }\n\
         config.trigger.after :suspend, run: { inline: 'x' }\n\
         config.trigger.after(:up) { |t| t.ruby { |env| puts 1 } }\n\
         config.vm.define 'web'\n\
         config.vm.define('db') { |d| d.trigger.after(:provision, run: { path: 'script/test.sh', args: 'a b' }) }",
    );
    let imported = imported(&source);
    let project = load(&imported.toml);
    let [greet, dump, test] = project.hooks.as_slice() else { panic!("{}", imported.toml) };
    assert_eq!((greet.moment, greet.side, greet.step.name.as_str()), (Moment::After, Side::Host, "greet"));
    assert_eq!(
        (greet.commands.as_slice(), greet.machines.len()),
        ([Hooked::Up, Hooked::Reload].as_slice(), 2)
    );
    assert_eq!((dump.moment, dump.side, dump.may_fail), (Moment::Before, Side::Guest, true));
    assert_eq!(dump.machines, ["db"]);
    assert!(matches!(dump.step.kind, StepKind::Shell { privileged: false, .. }), "{dump:?}");
    assert_eq!(
        (test.machines.join(" "), test.commands.as_slice()),
        ("db".into(), [Hooked::Provision].as_slice())
    );
    let lost: Vec<&str> = imported.left.iter().map(|left| left.reason.as_str()).collect();
    for part in ["before `up` there is no guest", "no hooks around `suspend`", "`ruby`"] {
        assert!(lost.iter().any(|reason| reason.contains(part)), "{part}: {lost:?}");
    }
}

#[test]
fn steps_of_ansible_and_docker_and_the_rest_of_scripts() {
    use rvm::model::{Restart, Script, StepKind};
    let source = block(
        "config.vm.box = 'micro'\n\
         config.vm.provision 'shell', inline: 'true', reboot: true, sensitive: true\n\
         config.vm.provision 'tool', type: 'shell', path: 'script/test.sh', env: { V: ENV['V'] || '1.2', W: \"a $b\" }\n\
         config.vm.provision 'docker', images: ['redis'] do |d|\nd.pull_images 'nginx:1', 'a/b'\n\
         d.run 'redis', args: '-p 6379:6379', cmd: 'redis-server --save \\'\\'', restart: 'no'\n\
         d.run 'web', image: 'nginx:1'\nd.build_image '/x'\nend\n\
         (1..2).each do |i|\nconfig.vm.define \"n#{i}\" do |n|\nif i == 2\n\
         n.vm.provision 'ansible' do |a|\na.playbook = 'site.yml'\na.limit = 'all'\na.become = true\n\
         a.tags = ENV['TAGS'] || 'all'\na.extra_vars = { 'the key' => 1, list: ['x', true] }\n\
         a.groups = { 'front' => ['n1', 'n2'], 'all:vars' => {} }\na.vault_password_file = 'pw'\na.verbose = 'v'\nend\n\
         else\nn.vm.provision 'ansible', playbook: 'site.yml', limit: 'n1', tags: 'a,b'\nend\nend\nend",
    );
    let imported = imported(&source);
    let project = load(&imported.toml);
    let first = &project.machines[0];
    assert!(first.steps[0].reboot && first.steps[0].sensitive);
    let StepKind::Shell { script: Script::Path(_), .. } = &first.steps[1].kind else { panic!("{first:?}") };
    let env: Vec<_> = first.steps[1].env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(env, [("V", "1.2"), ("W", "a $b")]);
    let StepKind::Docker(docker) = &first.steps[2].kind else { panic!("{first:?}") };
    assert_eq!(docker.images, ["redis", "nginx:1", "a/b"]);
    let [redis, web] = docker.containers.as_slice() else { panic!("{docker:?}") };
    assert_eq!(
        (redis.options.join(" "), redis.command.join(" ")),
        ("-p 6379:6379".into(), "redis-server --save ".into())
    );
    assert_eq!((redis.restart, web.restart, web.image.as_str()), (Restart::No, Restart::Always, "nginx:1"));
    let StepKind::Ansible(own) = &first.steps[3].kind else { panic!("{first:?}") };
    assert_eq!((own.limit.as_deref(), own.tags.join(" ")), (Some("n1"), "a b".into()));
    assert!(first.groups.contains(&"front".to_owned()) && project.machines[1].groups == first.groups);
    let [after] = project.after_all.as_slice() else { panic!("{}", imported.toml) };
    let StepKind::Ansible(play) = &after.step.kind else { panic!("{after:?}") };
    assert_eq!(
        (play.limit.clone(), play.become_root, play.args.join(" ")),
        (None, true, "--vault-password-file pw".into())
    );
    let vars: serde_json::Value = serde_json::from_str(play.extra_vars.expose()).unwrap();
    assert_eq!(vars, serde_json::json!({ "the key": 1, "list": ["x", true] }));
    let lost: Vec<&str> = imported
        .left
        .iter()
        .filter(|left| left.sort == Sort::Lost)
        .map(|left| left.reason.as_str())
        .collect();
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(
        lost.iter().any(|reason| reason.contains("all:vars"))
            && lost.iter().any(|reason| reason.contains("build_image"))
    );
}

#[test]
fn what_is_no_ruby_vagrantfile_is_refused() {
    for text in ["", "box = \"micro\"\n", "puts 1\n", "\u{0}\u{1}", "# Vagrant.configure\n", "<html>"] {
        assert!(matches!(import::import(text, "V"), Err(ImportError::NotVagrant)), "{text:?}");
    }
    let large = "#".repeat(import::LARGEST + 1);
    assert!(matches!(import::import(&large, "V"), Err(ImportError::TooLarge)));
}

/// Takes whatever it is; what comes out of it must be valid.
fn survives(source: &str) {
    if let Ok(imported) = import::import(source, "Vagrantfile") {
        let table: Result<toml::Table, _> = imported.toml.parse();
        assert!(table.is_ok(), "{source}\n{}\n{table:?}", imported.toml);
        assert!(!imported.toml.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{source:?}");
    }
}

/// Pieces that Vagrantfiles are made of, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "config.vm.box = x",
        "config.vm.box = 'debian/13'",
        "x = ENV['A'] || 1",
        "x = \"#{x}-#{y}\"",
        "y = [x, x]",
        "(1..3).each do |i|",
        "3.times { |x| config.vm.define \"m#{x}\" }",
        "end",
        "if x == 1",
        "else",
        "unless y",
        "config.vm.define 'a' do |config|",
        "config.vm.network 'forwarded_port', guest: 80, host: x",
        "config.vm.provision 'shell', inline: <<~S\n  echo #{x}\nS",
        "config.vm.provider 'libvirt' do |v, o|",
        "v.memory = x.to_i * 2",
        "v.customize ['modifyvm', :id, '--cpus', x]",
        "o.vm.hostname = 'q'",
        "x += y",
        "}",
        "config.vm.provision 'f', type: 'file', source: x, destination: '~/x'",
        "y << x",
        "h = { a: x, 'b' => y }",
        "h['c'] = h",
        "x = h[:a] || h.fetch('z', 3)",
        "def f(a, b = 2)",
        "x = f(1)",
        "return x",
        "next if x",
        "case x",
        "when 1, 'a' then y = 2",
        "x = x * 1000",
        "x = '%05d' % x",
        "config.vm.disk :disk, size: '1GB', name: x",
        "config.ssh.username = x",
        "config.trigger.before(:up) { |t| t.run = { inline: x } }",
        "begin",
        "rescue",
        "\\",
        "x = y.map { |q| q + q }",
        "a, b = y",
        "x = x.split(',', 2)",
        "config.vm.synced_folder x, y, disabled: true",
        "config.vm.post_up_message = \"\\u0000\\e[31m#{x}\"",
        "x = \"'''\\r\\n\\\"\\\"\\\"\"",
        "Vagrant.has_plugin?('x')",
    ];
    prop_oneof![
        20 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(text in "(\\PC|\n|\u{0}){0,200}") {
        survives(&text);
        survives(&block(&text));
    }

    #[test]
    fn any_mix_of_pieces_is_survived(pieces in prop::collection::vec(piece(), 0..30)) {
        survives(&block(&pieces.join("\n")));
    }

    #[test]
    fn any_cut_of_a_sample_is_survived(number in 0usize..10, from in 0usize..2000, length in 0usize..2000) {
        let mut names: Vec<_> = std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import"))
            .unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let text = sample(&names[number]);
        let cut: String = text.chars().take(from).chain(text.chars().skip(from + length)).collect();
        survives(&cut);
    }
}

/// How long this thread has worked: what else the machine does is no fault of the file's.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

/// The worst kinds of files end within a time that a user would wait.
#[test]
fn hostile_files_take_no_time() {
    let fill = |text: &str| text.repeat(import::LARGEST / text.len() - 100 / text.len().max(1) - 1);
    let nested = [
        "[",
        "(",
        "{",
        "a{",
        "-",
        "!",
        "a.b(",
        "\"#{",
        "if a then ",
        "a ? ",
        "->{",
        "[a,",
        "1+",
        "A::",
        "x=",
        "a do ",
    ];
    for text in nested {
        let start = worked();
        survives(&fill(text));
        let took = worked() - start;
        assert!(took < Duration::from_secs(60), "{text}: {took:?}");
    }
    for lines in [
        "a = 'x' * 1000\n100.times { a = a + a }",
        "a = [1]\n100.times { a = [a, a] }",
        "a = [1]\n9000.times { a = [a] }",
        "a = {}\n9000.times { |i| a[i] = a }",
        "9000.times { 9000.times { 9000.times { x = 1 } } }",
        "a = 'x' * 100_000\n9000.times { config.vm.provision 'shell', inline: a }",
        "9000.times { |i| config.vm.network 'forwarded_port', guest: 80, host: i }",
        "256.times { |i| config.vm.define \"m#{i}\" do |m|\n 100.times { m.vm.provision 'shell', inline: 'echo' }\nend\n}",
        "def f; f; f; end\nf",
        "a = %w[a b]\n9000.times { a == a; a.include?('z'); a << 'x' * 100 }",
    ] {
        let start = worked();
        survives(&block(lines));
        let took = worked() - start;
        assert!(took < Duration::from_secs(60), "{lines}: {took:?}");
    }
}

//! `docker` and `file` steps, as the file is read.

use std::path::Path;

use rvm::config::{self, ConfigError};
use rvm::model::{Project, Restart, StepKind};

fn load(dir: &Path, rest: &str) -> Result<Project, ConfigError> {
    for (name, text) in [("app.tar", ""), (".env", "PW=s3cr3t-value\n")] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    std::fs::create_dir_all(dir.join("site")).unwrap();
    std::fs::write(
        dir.join("Vagrantfile"),
        format!("box = 'micro'\nenv_file = '.env'\n[[provision]]\n{rest}"),
    )
    .unwrap();
    config::load(&dir.join("Vagrantfile"), &|_| None)
}

fn kind(rest: &str) -> StepKind {
    let dir = tempfile::tempdir().unwrap();
    let mut project = load(dir.path(), rest).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert!(!format!("{project:?}").contains("s3cr3t"), "a secret is shown");
    project.machines.remove(0).steps.remove(0).kind
}

#[test]
fn images_and_containers() {
    let StepKind::Docker(docker) = kind(
        "[provision.docker]\narchives = ['app.tar']\nimages = ['redis:7']\nremove = true\n\
         [[provision.docker.container]]\nname = 'app'\nimage = 'app:1'\nports = ['8080:80']\n\
         env = { PW = 'it is ${PW}', N = 3, ON = true }\nvolumes = ['/srv:/data:ro']\ncommand = ['run', '']\n\
         restart = 'no'\nnetwork = 'front'\noptions = ['--init']\n\
         [[provision.docker.container]]\nname = 'plain'\nimage = 'redis:7'\n",
    ) else {
        panic!()
    };
    assert!(docker.remove && docker.archives[0].ends_with("app.tar") && docker.images == ["redis:7"]);
    let [app, plain] = docker.containers.as_slice() else { panic!("{docker:?}") };
    let env: Vec<_> = app.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(env, [("N", "3"), ("ON", "true"), ("PW", "it is s3cr3t-value")]);
    assert_eq!((app.restart, app.network.as_deref()), (Restart::No, Some("front")));
    assert_eq!((app.command.join(" "), app.options.join(" ")), ("run ".into(), "--init".into()));
    assert_eq!((plain.restart, plain.env.len(), plain.network.is_none()), (Restart::UnlessStopped, 0, true));
}

#[test]
fn what_a_file_step_says() {
    let StepKind::File(copy) = kind(
        "file = { source = 'site', destination = '/srv', exclude = ['*.log'], owner = 'www-data', mode = '0640' }",
    ) else {
        panic!()
    };
    assert_eq!(
        (copy.owner.as_deref(), copy.group.as_deref(), copy.mode),
        (Some("www-data"), None, Some(0o640))
    );
    assert!(copy.exclude.covers(Path::new("a/x.log"), false));
}

#[test]
fn what_is_wrong_with_them() {
    let container = |rest: &str| format!("[provision.docker]\n[[provision.docker.container]]\n{rest}\n");
    let named = |rest: &str| container(&format!("name = 'app'\nimage = 'app:1'\n{rest}"));
    let file = |rest: &str| format!("file = {{ source = 'app.tar', destination = 'x', {rest} }}\n");
    let cases = [
        ("docker = 'redis'\n".into(), "neither which images"),
        ("docker = {}\n".into(), "`docker` is empty"),
        ("docker = { images = ['-v'] }\n".into(), "is not the name of an image"),
        ("docker = { images = ['${PW}'] }\n".into(), "`PW` is from the ENV file"),
        ("docker = { archives = ['none.tar'] }\n".into(), "does not exist"),
        ("docker = { archives = ['site'] }\n".into(), "is not a file"),
        ("docker = { containers = [] }\n".into(), "it is called `container` here"),
        (container("image = 'x'"), "this container has no `name`"),
        (container("name = 'xx'"), "this container has no `image`"),
        (container("name = '-x'\nimage = 'x'"), "`name` cannot be"),
        (named("ports = ['x:80']"), "is not a port such as"),
        (named("volumes = ['./a:/b']"), "is not such as"),
        (named("command = ['${PW}']"), "hand it in by `env = { PW = \"${PW}\" }`"),
        (named("restart = 'sometimes'"), "sometimes"),
        (named("env = ['PW']"), "is a table of names and values"),
        (named("env = { DOCKER_HOST = 'x' }"), "cannot have a variable"),
        (named("env = { 'a b' = 'x' }"), "cannot have a variable"),
        (named("env = { A = ['x'] }"), "`A` is not a string"),
        (
            format!("{}[[provision.docker.container]]\nname = 'app'\nimage = 'y'\n", named("")),
            "two containers",
        ),
        (file("exclude = ['*.log']"), "`exclude` is for folders"),
        (file("owner = 'a b'"), "`owner` cannot be"),
        (file("mode = 'u+x'"), "`mode` cannot be"),
        ("file = { source = 'site', destination = 'x', exclude = ['[z-a]'] }\n".into(), "is not a pattern"),
    ];
    for (rest, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let text = load(dir.path(), &rest).expect_err(&rest).render(false);
        assert!(text.contains(words), "{rest}{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
    }
}

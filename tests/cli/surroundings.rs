//! What the environment decides: where things are, what is shown of the work inside.

use super::Place;

/// What a command prints with these variables.
fn printed(place: &Place, words: &[&str], env: &[(&str, &str)]) -> (String, String) {
    let mut command = place.command(words);
    let output = command.envs(env.iter().copied()).output().unwrap();
    let ran = place.finish(output);
    assert_eq!(ran.code, 0, "{words:?} {env:?}: {}", ran.stderr);
    (ran.stdout, ran.stderr)
}

#[test]
fn the_store_is_where_it_is_said_to_be() {
    let place = Place::with("box = \"micro\"\n");
    place.made("default");
    assert!(place.run(&["status"]).stdout.contains("poweroff"));
    let elsewhere = place.dir.path().join("elsewhere").display().to_string();
    assert!(printed(&place, &["status"], &[("RVM_HOME", &elsewhere)]).0.contains("not created"));
    // Without the variable it is in the data folder of XDG, and that has a default.
    let data = place.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::rename(place.home(), data.join("rvm")).unwrap();
    let xdg = data.display().to_string();
    assert!(
        printed(&place, &["status"], &[("RVM_HOME", ""), ("XDG_DATA_HOME", &xdg)]).0.contains("poweroff")
    );
    let share = place.dir.path().join(".local/share");
    std::fs::create_dir_all(&share).unwrap();
    std::fs::rename(data.join("rvm"), share.join("rvm")).unwrap();
    assert!(printed(&place, &["status"], &[("RVM_HOME", "")]).0.contains("poweroff"));
}

#[test]
fn the_pointers_are_where_they_are_said_to_be() {
    let place = Place::with("box = \"micro\"\n");
    let id = place.made("default");
    // The project was moved: what tells which machine is its own is the pointer.
    let moved = place.dir.path().join("moved");
    std::fs::rename(place.project(), &moved).unwrap();
    std::fs::create_dir(place.project()).unwrap();
    let dots = place.dir.path().join("dots/machines/default");
    std::fs::create_dir_all(&dots).unwrap();
    std::fs::write(dots.join("id"), id).unwrap();
    let cwd = moved.display().to_string();
    let dot_dir = place.dir.path().join("dots").display().to_string();
    assert!(printed(&place, &["status"], &[("RVM_CWD", &cwd)]).0.contains("not created"));
    let (status, _) = printed(&place, &["status"], &[("RVM_CWD", &cwd), ("RVM_DOTFILE_PATH", &dot_dir)]);
    assert!(status.contains("poweroff"), "{status}");
    // A relative one starts at the working folder.
    let (status, _) = printed(&place, &["status"], &[("RVM_CWD", &cwd), ("RVM_DOTFILE_PATH", "../dots")]);
    assert!(status.contains("poweroff"), "{status}");
}

#[test]
fn what_happens_inside_is_told_to_those_who_ask() {
    let place = Place::with("box = \"micro\"\n");
    place.write(".env", "SECRET=hunter2\n");
    assert_eq!(printed(&place, &["status"], &[]).1, "");
    let (result, told) = printed(&place, &["status", "-v"], &[]);
    assert!(told.contains("DEBUG rvm"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(result, printed(&place, &["status"], &[]).0, "the result is the same");
    let (_, filtered) = printed(&place, &["status"], &[("RVM_LOG", "rvm=debug")]);
    assert!(filtered.contains("DEBUG rvm"), "{filtered}");
    let (_, nothing) = printed(&place, &["status", "-v"], &[("RVM_LOG", "rvm=error")]);
    assert_eq!(nothing, "", "the filter of the environment is finer, and counts");
    assert!(!told.contains('\x1b'), "no colours in a pipe: {told:?}");
}

#[test]
fn a_default_provider_is_one_that_there_is() {
    let place = Place::with("box = \"micro\"\n");
    let mut command = place.command(&["status"]);
    let ran = place.finish(command.env("RVM_DEFAULT_PROVIDER", "virtualbox").output().unwrap());
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("RVM_DEFAULT_PROVIDER is `virtualbox`\nhint: it is `kvm` or `qemu`"),
        "{}",
        ran.stderr
    );
    // What the host has decides whether it serves; that it is asked shows in the plan.
    let ran = place.finish(
        place.command(&["plan"]).env("RVM_DEFAULT_PROVIDER", "qemu").env("PATH", "").output().unwrap(),
    );
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("qemu"), "{}{}", ran.stdout, ran.stderr);
    printed(&place, &["status"], &[("RVM_DEFAULT_PROVIDER", "")]);
}

#[test]
fn a_store_that_is_none_is_said_with_what_to_do() {
    let place = Place::with("box = \"micro\"\n");
    std::fs::write(place.home(), "").unwrap();
    for words in [&["status"][..], &["up"], &["halt"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 1, "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("[DIR]/home/"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: a part of this path is a file and no folder"), "{}", ran.stderr);
    }
    let ran = place.run(&["ssh-config", "--include"]);
    assert!(ran.stderr.contains("cannot make [DIR]/home"), "{}", ran.stderr);
}

#[test]
fn a_host_that_cannot_run_a_machine_says_so_before_a_box_is_built() {
    let place = Place::with("box = \"micro\"\nprovider = \"qemu\"\n");
    let tools = place.dir.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for (missing, code) in [("qemu-system-x86_64", "E0703"), ("passt", "E0901")] {
        let mut command = place.command(&["up"]);
        let ran = place.finish(command.env("PATH", &tools).output().unwrap());
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(
            ran.stderr.starts_with(&format!("error[{code}]")) && ran.stderr.contains(missing),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("sudo apt install"), "{}", ran.stderr);
        std::fs::write(tools.join(missing), "").unwrap();
    }
    assert!(place.run(&["status"]).stdout.contains("not created"));
    assert!(!place.home().join("boxes").exists(), "nothing was built");
}

#[test]
fn names_that_are_no_text_are_refused_and_not_passed_over() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let odd = |path: &std::path::Path| path.join(OsStr::from_bytes(b"caf\xe9"));
    let place = Place::with("box = \"micro\"\n");
    for name in ["RVM_HOME", "RVM_CWD", "HOME"] {
        let output = place.command(&["status"]).env(name, odd(place.dir.path())).output().unwrap();
        let ran = place.finish(output);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{name}");
        assert!(ran.stderr.contains(&format!("the value of {name} is no UTF-8 text")), "{}", ran.stderr);
    }
    let folder = odd(place.dir.path());
    std::fs::rename(place.project(), &folder).unwrap();
    for words in [&["up"][..], &["status"]] {
        let ran = place.finish(place.command(words).current_dir(&folder).output().unwrap());
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.stderr.contains("is no UTF-8 text\nhint: rename it"), "{}", ran.stderr);
    }
    assert!(!place.home().exists(), "nothing was made");
}

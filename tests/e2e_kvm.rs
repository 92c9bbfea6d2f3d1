//! End to end on the provider `kvm`: needs a KVM that runs stock guests, and fails without one.
//!
//! `make test` runs it on the machine's own KVM where that is real, else in the lab.
//! `docs/testing.md` says more.

mod common;
#[path = "common/tiny.rs"]
mod tiny;
#[path = "common/without.rs"]
mod without;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Project, machines};
use rvm::vmm::control::Client;

/// The other tests would fail one by one, less clearly.
#[test]
fn this_host_has_a_real_kvm() {
    let project = Project::new("kvm", common::cases::MICRO);
    let run = project.rvm(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(
        report["providers"]["kvm"] == true,
        "this KVM cannot run stock guests: run `make test`, which uses the lab\n{}",
        run.text()
    );
}

/// Where KVM is real it is what serves without being asked for.
#[test]
fn kvm_is_chosen_by_itself() {
    let project = Project::new("kvm", common::cases::MICRO);
    project.write("Vagrantfile", common::cases::MICRO);
    project.rvm(&["up"]).ok().says_not("qemu");
    assert_eq!(machines(&project.rvm(&["status", "--json"]).ok())[0]["provider"], "kvm");
}

/// The agent of a box tells the host that the guest is up, after a reboot too, and takes orders: the time
/// when it connects, and to switch the guest off, also where the power button is dead.
#[test]
fn the_guest_says_that_it_is_up() {
    let project = Project::new("kvm", common::cases::MICRO);
    project.rvm(&["up"]).ok();
    let socket = project.machine_dir("default").join("control.sock");
    let is_up = |patience| {
        let mut client = Client::connect(&socket, Duration::from_secs(10)).unwrap();
        client.wait_up(patience, &mut || true).unwrap()
    };
    let patience = Duration::from_secs(180);
    assert!(is_up(patience));
    // Two agents take turns, so the first is stopped before what it would say is said by hand.
    let told = project.ssh("sudo killall agent; printf 'nonsense\\ntime 2000000000000000000\\n' | sudo /usr/lib/rvm/agent serve; date +%s");
    assert!(told.starts_with("20000000"), "the clock says {told}");
    while is_up(Duration::from_millis(100)) {}
    project.ssh("sudo sh -c '/usr/lib/rvm/agent ready >/dev/null 2>&1 &'");
    assert!(is_up(patience));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let is_right = || {
        let before = now();
        (before - 30..=now() + 1).contains(&project.ssh("date +%s").parse().unwrap())
    };
    wait("the guest is not told the time", is_right);
    if rustix::system::uname().nodename().to_bytes() == b"lab" {
        let day = 24 * 3600;
        for ahead in [true, false] {
            let time = if ahead { now() + day } else { now() - day };
            project.run("date", &["-s", &format!("@{time}")]).ok();
            wait("the guest is not told that the host's clock was set", is_right);
        }
    } else {
        println!("the clock of this host is not set: that the guest is told is tested in a lab only");
    }
    project.ssh("sudo killall agent");
    while is_up(Duration::from_millis(100)) {}
    // Not root, so not the system: the host does not listen to it.
    project.rvm(&["ssh", "-c", "/usr/lib/rvm/agent ready"]).ok();
    assert!(!is_up(Duration::from_millis(100)));
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    assert!(is_up(patience));
    project.ssh("sudo killall acpid");
    project.rvm(&["halt"]).ok().says_not("switching off");
    assert_eq!(project.state("default"), "poweroff");
}

/// A file of the newest box `micro`, which boots without anything else.
fn boot_file(project: &Project, name: &str) -> String {
    let boxes = project.home.join("boxes/micro");
    let files = common::files(&boxes).into_iter().filter(|path| path.ends_with(name));
    let newest = files.max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    newest.unwrap_or_else(|| panic!("no {name} in {}", boxes.display())).display().to_string()
}

/// The distribution's kernel finds its disk on the PCI bus, and by ACPI where there is none. Its first
/// stage lists the disks when it is not told which one is the root, and switches off.
#[test]
fn a_disk_is_found_over_either_transport() {
    let project = Project::new("kvm", common::cases::MICRO);
    let (kernel, initrd) = (boot_file(&project, "vmlinux"), boot_file(&project, "initrd"));
    project.write("disk.img", &"\0".repeat(1 << 20));
    // What a guest has of processors and memory is more than the host has, too.
    for (transport, cpus, memory) in [("pci", "2", "64G"), ("mmio", "8", "256M")] {
        let run = project.rvm(&[
            "boot",
            "--transport",
            transport,
            "--cpus",
            cpus,
            "--memory",
            memory,
            "--kernel",
            &kernel,
            "--initrd",
            &initrd,
            "--disk",
            "disk.img",
            "--cmdline",
            "console=ttyS0 panic=1 quiet reboot=k",
        ]);
        run.ok().says("disks here: vda");
    }
}

/// A card on a TAP interface: its driver starts it, which tells the interface what was agreed on, from
/// within the sandbox. The interface is made in a network of its own, which takes no root.
#[test]
fn a_card_on_a_tap_interface_is_started() {
    let project = Project::new("kvm", common::cases::MICRO);
    let rvm = common::binary().display().to_string();
    let (kernel, initrd) = (boot_file(&project, "vmlinux"), boot_file(&project, "initrd"));
    project.write("disk.img", &"\0".repeat(1 << 20));
    let script = "ip tuntap add dev t0 mode tap vnet_hdr && exec \"$0\" boot --net tap=t0 --memory 256M \
                  --kernel \"$1\" --initrd \"$2\" --disk disk.img --cmdline 'console=ttyS0 panic=1 quiet reboot=k'";
    let run = project.run("unshare", &["-rn", "sh", "-c", script, &rvm, &kernel, &initrd]);
    run.ok().says("disks here: vda");
}

/// An interrupt of a device costs the guest no exit: it is a message.
#[test]
fn devices_interrupt_by_messages() {
    let project = Project::new("kvm", common::cases::MICRO);
    project.rvm(&["up"]).ok();
    let lines = project.ssh("grep virtio /proc/interrupts");
    assert!(lines.lines().count() >= 4, "{lines}");
    assert!(lines.lines().all(|line| line.contains("MSIX")), "{lines}");
}

/// Memory that the guest has freed comes back; a balloon takes some and gives it again.
#[test]
fn freed_memory_comes_back() {
    let project = Project::new("kvm", "box = \"micro\"\nmemory = \"256MiB\"\n");
    project.rvm(&["up"]).ok();
    let resident = || project.machine("default")["memory"]["resident"].as_u64().expect("resident");
    let before = resident();
    assert!((16 << 20..256 << 20).contains(&before), "{before}");
    project.ssh("dd if=/dev/urandom of=/tmp/ballast bs=1M count=80 2>&1");
    let full = resident();
    assert!(full >= before + (70 << 20), "{before}, then {full}");
    let guest = project.machine("default")["memory"]["guest"].clone();
    assert!(guest["available"].as_u64().unwrap() < guest["total"].as_u64().unwrap() - (80 << 20), "{guest}");
    project.ssh("rm /tmp/ballast");
    let half = full - (40 << 20);
    wait("the memory does not come back", || resident() < half);
    project.rvm(&["status"]).ok().says("of 256 MiB of memory in use").says("available");

    let socket = project.machine_dir("default").join("control.sock");
    let mut client = Client::connect(&socket, Duration::from_secs(30)).unwrap();
    for bytes in [32 << 20, 0] {
        client.set_balloon(bytes).unwrap();
        wait("the balloon does not get there", || client.usage().unwrap().balloon == Some(bytes));
    }
    client.set_balloon(257 << 20).unwrap_err();
}

#[track_caller]
fn wait(otherwise: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{otherwise}");
        thread::sleep(Duration::from_millis(200));
    }
}

cases! { "kvm":
    life::life_of_a_machine,
    life::two_machines_of_one_file,
    life::forwarded_ports,
    console::console_of_a_machine,
    networks::two_machines_and_a_killed_switch,
    routed::machines_find_each_other_by_name_over_a_router,
    bridges::a_machine_on_a_bridge,
    hardware::four_cpus_four_gib_and_a_grown_disk,
    hardware::disks_beside_the_root_disk,
    hardware::a_guest_that_reboots_or_powers_off,
    steps::a_failed_step_is_where_the_next_up_resumes,
    steps::kinds_of_steps_and_when_they_run,
    steps::a_secret_reaches_only_the_step_that_names_it,
    steps::steps_that_reboot_and_steps_that_take_too_long,
    logins::wrong_credentials_are_named,
    logins::bad_key_files_are_refused_early,
    plan::an_edited_file_is_planned_applied_and_reloaded,
    faults::a_killed_machine_is_aborted_and_up_recovers,
    faults::an_up_cut_off_anywhere_is_finished_by_the_next,
    faults::two_ups_at_once_wait_for_each_other,
    faults::broken_files_are_named,
    faults::a_full_disk_is_named,
    many::machines_that_need_each_other,
    shares::a_shared_folder_is_one_folder,
    walls::a_running_machine_is_shut_in,
    systems::debian_12_stock,
    systems::debian_12_fast,
    systems::debian_13_stock_late_then_with_packages,
    systems::debian_13_fast,
}

#[test]
fn two_projects_and_two_providers_in_one_network() {
    common::cases::networks::two_projects_in_one_network("kvm", "qemu");
}

/// passt works on the guest's memory by itself where it can, also when it was killed and another one takes over;
/// where it cannot, who asks for that is told so.
#[test]
fn passt_carries_frames_in_the_guests_memory() {
    let file = format!("nat_backend = \"vhost-user\"\n{}", common::cases::MICRO);
    let project = Project::new("kvm", &file);
    let help = std::process::Command::new("passt").arg("--help").output().unwrap();
    if !String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("\n  --vhost-user") {
        println!("the installed passt has no --vhost-user: what is tested is that it is not asked for it");
        project.rvm(&["up"]).code(1).says("E0908").says("the installed passt has no such mode");
        return;
    }
    project.rvm(&["up"]).ok();
    let shared = |project: &Project| {
        let pid = project.pids_of("__vm", "machines")[0];
        std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().contains("/memfd:guest")
    };
    assert!(shared(&project), "guest memory is its own");
    assert_eq!(project.ssh("cat /sys/class/net/eth0/mtu"), "65520");
    // More than fits a ring.
    assert_eq!(project.ssh("head -c 3000000 /dev/zero | tr '\\0' x").len(), 3_000_000);
    project.kill_passt("default");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while project.rvm(&["ssh", "-c", "echo $((6 * 7))"]).code != 0 {
        assert!(std::time::Instant::now() < deadline, "no other passt was started");
    }
    // Memory that a reset clears is memory that passt maps.
    project.rvm(&["reload"]).ok();
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    project.rvm(&["up"]).ok();
    project.rvm(&["ssh", "-c", "echo $((6 * 7))"]).ok().says("42");
    assert!(shared(&project));
    project.rvm(&["halt"]).ok();
}

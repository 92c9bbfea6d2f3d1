//! Processors, memory, disks; a guest that reboots or switches itself off.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::MICRO;
use crate::common::Project;

/// What the file declares is what the guest has.
pub fn four_cpus_four_gib_and_a_grown_disk(provider: &str) {
    let file = "box = \"micro\"\ncpus = 4\nmemory = \"4GiB\"\ndisk = \"3GiB\"\nhostname = \"big.example\"\n";
    let project = Project::new(provider, file);
    project.rvm(&["up"]).ok();
    assert_eq!(project.ssh("nproc"), "4");
    let kib: u64 = project.ssh("awk '/^MemTotal/ { print $2 }' /proc/meminfo").parse().unwrap();
    assert!((3_700_000..=4_194_304).contains(&kib), "MemTotal is {kib} KiB");
    // Memory above 4 GiB of addresses exists only where the hole below them was left out.
    let blocks: u64 = project.ssh("df -k / | awk 'END { print $2 }'").parse().unwrap();
    assert!((2_700_000..=3 << 20).contains(&blocks), "the root file system has {blocks} KiB");
    assert_eq!(project.ssh("hostname"), "big.example");
    if provider == "kvm" {
        clocks_and_topology(&project, 4);
    }
    let used = "dd if=/dev/urandom of=/tmp/a bs=1M count=64 2>/dev/null && cp /tmp/a /tmp/b && sync && cmp /tmp/a /tmp/b && echo same";
    assert_eq!(project.ssh(used), "same");

    // What is deleted and trimmed is the host's again. In `/tmp` it would be in memory.
    let disk = project.machine_dir("default").join("disk.qcow2");
    let mib = || std::fs::metadata(&disk).unwrap().blocks() >> 11;
    project.ssh("cp /tmp/a /home/vagrant/a && sync");
    let full = mib();
    assert!(full >= 64, "{full} MiB");
    project.ssh("rm /home/vagrant/a && sync && sudo fstrim /");
    let deadline = Instant::now() + Duration::from_secs(20);
    while mib() + 60 > full {
        assert!(Instant::now() < deadline, "of {full} MiB there are still {}", mib());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the hypervisor says of time and processors arrives in the guest's kernel.
fn clocks_and_topology(project: &Project, cpus: usize) {
    let script = r#"
cd /sys/devices/system/clocksource/clocksource0
for f in current available; do echo $f=$(cat ${f}_clocksource); done
cd /sys/devices/system/cpu
for f in core_id thread_siblings_list physical_package_id; do echo $f=$(cat cpu[0-9]*/topology/$f); done
echo timers=$(sudo grep -c '^Clock Event Device: lapic-deadline' /proc/timer_list)
echo flags=$(grep -m 1 '^flags' /proc/cpuinfo)"#;
    let said = project.ssh(script);
    let words = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in:\n{said}")).split_whitespace().collect::<Vec<_>>()
    };
    // Where the host's time stamp counter never stops, Linux prefers that; KVM's clock says what time it is.
    assert!(["kvm-clock", "tsc"].contains(&words("current")[0]), "{said}");
    assert!(words("available").contains(&"kvm-clock"), "{said}");
    // A timer of each processor that is told when, not after how much.
    assert_eq!(words("timers"), [cpus.to_string()]);
    let mut cores = words("core_id");
    cores.sort_unstable();
    cores.dedup();
    assert_eq!(cores.len(), cpus, "one core a processor: {said}");
    let threads: Vec<String> = (0..cpus).map(|cpu| cpu.to_string()).collect();
    assert_eq!(words("thread_siblings_list"), threads, "one thread a core");
    assert_eq!(words("physical_package_id"), vec!["0"; cpus], "one package");
    let flags = words("flags");
    assert!(flags.contains(&"hypervisor") && flags.contains(&"tsc_deadline_timer"), "{said}");
    // Nobody asked for virtual machines in it.
    assert!(!flags.contains(&"svm") && !flags.contains(&"vmx"), "{said}");
}

/// A disk beside the root disk keeps what is written to it and grows; an image that is read-only
/// cannot be written; one that is in use cannot be used twice.
pub fn disks_beside_the_root_disk(provider: &str) {
    let file = |size: &str| {
        format!(
            "{MICRO}[[disk]]\nname = \"data\"\nsize = \"{size}\"\nmount = \"/srv/data\"\n\
             [[disk]]\nname = \"cd\"\nimage = \"cd.raw\"\nformat = \"raw\"\nread_only = true\n"
        )
    };
    let project = Project::new(provider, &file("32MiB"));
    project.write("cd.raw", &"0123456789abcdef".repeat(64 << 10));
    project.rvm(&["up"]).ok().says("Disk `data` is new").says_not("not mounted");
    let kib = "df -k /srv/data | awk 'END { print $2 }'";
    assert!(project.ssh(kib).parse::<u64>().unwrap() < 32 << 10);
    project.ssh("echo kept | sudo tee /srv/data/file && sync");

    let cd =
        "for b in /sys/block/*; do [ \"$(cat $b/serial 2>/dev/null)\" != cd ] || echo /dev/${b##*/}; done";
    let cd = project.ssh(cd);
    assert_eq!(project.ssh(&format!("sudo head -c 16 {cd}")), "0123456789abcdef");
    project.rvm(&["ssh", "-c", &format!("echo no | sudo dd of={cd} 2>/dev/null")]).code(1);
    assert!(std::fs::read(project.root.join("cd.raw")).unwrap().starts_with(b"0123456789abcdef"));

    project.rvm(&["halt"]).ok();
    project.vagrantfile(provider, &file("64MiB"));
    project.rvm(&["up"]).ok().says("grows to 64 MiB").says_not("not mounted");
    assert_eq!(project.ssh("cat /srv/data/file"), "kept");
    assert!(project.ssh(kib).parse::<u64>().unwrap() > 40 << 10);

    let writer = "[[machine]]\nname = \"default\"\n[[machine]]\nname = \"other\"\n\
                  [[machine.disk]]\nname = \"cd\"\nimage = \"cd.raw\"\nformat = \"raw\"\n";
    project.vagrantfile(provider, &format!("{MICRO}{writer}"));
    project.rvm(&["up", "other"]).code(1).says("cd.raw").says("stop the machine or program that uses it");
    project.rvm(&["destroy", "-f"]).ok();
    assert!(project.root.join("cd.raw").exists(), "the image is the user's");
}

/// A guest that reboots comes back by itself; one that switches itself off stays off.
pub fn a_guest_that_reboots_or_powers_off(provider: &str) {
    let project = Project::new(provider, MICRO);
    project.rvm(&["up"]).ok();
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = project.ssh(boot);
    // The connection may be gone before the command's exit code comes back.
    project.rvm(&["ssh", "-c", "sudo reboot"]);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let run = project.rvm(&["ssh", "-c", boot]);
        if run.code == 0 && run.stdout.trim() != first {
            break;
        }
        assert!(Instant::now() < deadline, "the guest does not come back");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(project.state("default"), "running");
    project.rvm(&["ssh", "-c", "sudo poweroff"]);
    project.wait_state("default", "poweroff");
    project.rvm(&["up"]).ok();
    assert_ne!(project.ssh(boot), first);
    project.rvm(&["halt", "-f"]).ok();
    assert_eq!(project.state("default"), "poweroff");
}

//! End to end on the provider `qemu`, with software emulation: runs on any machine.
//!
//! Builds the boxes and the kernel when the test store lacks them. `docs/testing.md` says more.

mod common;
#[path = "common/containers.rs"]
mod containers;
#[path = "common/examples.rs"]
mod examples;
#[path = "common/folders.rs"]
mod folders;

use common::Project;
use common::cases::MICRO;

cases! { "qemu":
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
fn two_projects_in_one_network() {
    common::cases::networks::two_projects_in_one_network("qemu", "qemu");
}

/// Bytes of one connection in each direction: far more than all sockets on the way hold.
const MUCH: usize = 8 << 20;

/// Much traffic in both directions at once: QEMU and passt, which both write without reading meanwhile, do not
/// wait for each other.
#[test]
fn much_traffic_both_ways_at_once() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let serve = |stream: std::net::TcpStream| {
            let mut writer = stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![0; MUCH]));
            let mut read = vec![0; MUCH];
            (&stream).read_exact(&mut read).unwrap();
            writing.join().unwrap().unwrap();
        };
        let streams: Vec<_> = listener.incoming().take(3).map(|stream| stream.unwrap()).collect();
        let serving: Vec<_> =
            streams.into_iter().map(|stream| std::thread::spawn(move || serve(stream))).collect();
        serving.into_iter().for_each(|one| one.join().unwrap());
    });
    let project = Project::new("qemu", &format!("{MICRO}cpus = 2\n"));
    project.rvm(&["up"]).ok();
    // Nothing is half-closed: an old passt has a fault of its own there.
    let command = format!(
        "cd /tmp; for i in 1 2 3; do mkfifo f$i; (head -c {MUCH} /dev/zero; sleep 600) >f$i 2>/dev/null </dev/null & done; \
         for i in 1 2 3; do nc host.rvm.internal {port} <f$i | wc -c >n$i & all=\"$all $!\"; done; wait $all; cat n1 n2 n3"
    );
    let run = project.start(&["ssh", "-c", &command]);
    let pid = run.pid();
    // Without end, it ends with an error.
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(120));
        let _ = rustix::process::Pid::from_raw(pid.try_into().unwrap())
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    });
    assert_eq!(run.wait().ok().stdout, format!("{MUCH}\n").repeat(3));
    server.join().unwrap();
    project.rvm(&["halt"]).ok();
}

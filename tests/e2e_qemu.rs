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

/// Two networks with one machine in both; `lone` is in a network of its own.
const ROUTED: &str = r#"
[[network]]
name = "front"
subnet = ["10.81.0.0/24", "fd81::/64"]
mtu = 9000

[[network]]
name = "back"
subnet = ["10.82.0.0/24", "fd82::/64"]

[[machine]]
name = "web"
hostname = "shop.example"
network = [{ private = "front", ip = ["10.81.0.5", "fd81::5"] }]

[[machine.provision]]
shell = "ip route add 10.82.0.0/24 via 10.81.0.1 && ip -6 route add fd82::/64 via fd81::1"

[[machine]]
name = "router"
network = [
  { private = "front", ip = ["10.81.0.1", "fd81::1"] },
  { private = "back", ip = ["10.82.0.1", "fd82::1"] },
]

[[machine.provision]]
shell = "echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"

[[machine]]
name = "db"
network = [{ private = "back", ip = "dhcp" }]

[[machine.provision]]
shell = '''
ip route add 10.81.0.0/24 via 10.82.0.1 && ip -6 route add fd81::/64 via fd82::1
echo "$(hostname) over TCP" >/tmp/index.html
httpd -p 8000 -h /tmp && httpd -p '[::]:8001' -h /tmp
'''

[[machine]]
name = "lone"
network = [{ private = "alone" }]
"#;

/// TCP, UDP, IPv4 and IPv6 by name, over a router between two networks; a machine elsewhere reaches none
/// of them.
#[test]
fn machines_find_each_other_by_name_over_a_router() {
    let project = Project::new("qemu", &format!("{MICRO}{ROUTED}"));
    project.rvm(&["up"]).ok().says("10.82.0.2").says("db.back");
    let ssh = |name: &str, command: &str| project.rvm(&["ssh", name, "-c", command]);

    let fetch = |name: &str, url: &str| ssh(name, &format!("wget -q -T 20 -O- http://{url}/"));
    for host in ["db:8000", "db.back:8000", "10.82.0.2:8000"] {
        fetch("web", host).ok().says("db over TCP");
    }
    let v6 = ssh("web", "nslookup -type=aaaa db.back | sed -n 's/^Address: //p'").ok().stdout;
    assert!(v6.starts_with("fd82::"), "{v6}");
    fetch("web", &format!("[{}]:8001", v6.trim())).ok().says("db over TCP");
    fetch("router", "db:8000").ok().says("db over TCP");
    // UDP there and back over the router, to the resolver of the other network.
    ssh("db", "nslookup -type=a web.front 10.81.0.254").ok().says("10.81.0.5");
    // Datagrams from machine to machine, by way of the router, which says so: what answers them is where they end.
    for (trace, router, end) in
        [("traceroute", "10.81.0.1", "10.82.0.2"), ("traceroute6", "fd81::1", v6.trim())]
    {
        ssh("web", &format!("sudo busybox {trace} -n -q 1 -w 20 -m 4 {end}")).ok().says(router).says(end);
    }
    let v6_by_name = "sudo ping -6 -c 1 -W 20 db.back && wget -q -T 20 -O- http://db.back:8001/";
    ssh("web", v6_by_name).ok().says(v6.trim()).says("db over TCP");
    // Host names, in full and in part, from the network behind the router.
    for name in ["shop.example", "shop", "web.front"] {
        ssh("db", &format!("ping -4 -c 1 -W 20 {name} || sudo ping -4 -c 1 -W 20 {name}"))
            .ok()
            .says("10.81.0.5");
    }
    assert_eq!(ssh("web", "cat /sys/class/net/eth1/mtu").ok().stdout.trim(), "9000");
    ssh("router", "sudo ping -c 1 -W 20 -s 8900 web").ok().says("8908 bytes from");
    // Other names are left to the resolver of the host.
    let resolvers = ssh("web", "cat /etc/resolv.conf").ok().stdout;
    assert_eq!(resolvers.lines().filter(|line| line.starts_with("nameserver")).count(), 2, "{resolvers}");

    ssh("lone", "sudo ping -c 1 -W 2 10.81.0.5").code(1);
    ssh("lone", "wget -q -T 3 -O- http://db:8000/").code(1);
    // Not even for who looks for them on its own card.
    let looks = "sudo ip route add 10.81.0.0/16 dev eth1 && sudo ip -6 route add fd81::/16 dev eth1";
    ssh("lone", &format!("{looks} && sudo ping -c 1 -W 2 10.81.0.5")).code(1);
    for command in ["ping -6 -c 1 -W 2 fd81::5", "busybox arping -c 1 -w 2 -I eth1 10.81.0.5"] {
        ssh("lone", &format!("sudo {command}")).code(1).says_not("1 packets received");
    }
    ssh("lone", "nslookup -type=a db 10.81.0.254").code(1);

    let web = project.machine("web");
    assert_eq!(web["networks"][0]["addresses"][1], "fd81::5");
    project.rvm(&["destroy", "-f"]).ok();
    let left = std::fs::read_dir(project.home.join("networks")).unwrap().count();
    assert_eq!(left, 0, "a network without machines is left");
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

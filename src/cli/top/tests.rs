use std::time::{Duration, Instant};

use super::rates::{Row, Way, document};
use super::screen::frame;
use super::text::{line, table};
use crate::machine::{Sample, State, Status};
use crate::model::ProviderKind;
use crate::vmm::control::{Stats, Traffic, Usage};

fn status(name: &str, state: State) -> Status {
    let runs = state == State::Running;
    Status {
        id: Some("0123456789abcdef0123456789abcdef".into()),
        name: name.into(),
        provider: Some(ProviderKind::Kvm),
        state,
        project: "/p".into(),
        box_name: "micro".into(),
        pid: runs.then_some(42),
        ports: vec![],
        places: vec![],
        ssh: None,
        uptime: runs.then_some(3725),
        cause: None,
        remedy: None,
    }
}

/// A machine that has read `n` MiB and used `n` s of processor time.
fn sample(at: Instant, n: u64) -> Sample {
    let traffic = Traffic {
        disk_read: Some(n << 20),
        disk_written: Some(0),
        net_received: Some(n * 1000),
        net_sent: Some(n * 10),
    };
    let guest = Stats { total: Some(1 << 30), available: Some(700 << 20), ..Stats::default() };
    let usage = Usage {
        memory: 1 << 30,
        resident: Some(212 << 20),
        balloon_target: Some(0),
        balloon: Some(0),
        guest: Some(guest),
        traffic: Some(traffic),
    };
    Sample { at, pid: 42, cpu: Duration::from_secs(n), pss: None, rss: 300 << 20, usage: Some(usage) }
}

fn rows() -> Vec<Row> {
    let then = Instant::now();
    let (before, now) = (sample(then, 10), sample(then + Duration::from_secs(2), 13));
    vec![
        Row::new(&status("web", State::Running), Some(&before), Some(&now)),
        Row::new(&status("database", State::Poweroff), None, None),
    ]
}

#[test]
fn rates_are_differences_over_time() {
    let row = rows().swap_remove(0);
    assert_eq!((row.cpu, row.used, row.host()), (Some(150.0), Some(324 << 20), Some(300 << 20)));
    let rates = Some([1.5 * f64::from(1 << 20), 0.0]);
    assert_eq!(row.disk, Some(Way { bytes: [13 << 20, 0], rates }));
    let then = Instant::now();
    let (old, new) = (sample(then, 10), sample(then + Duration::from_secs(1), 3));
    let running = status("web", State::Running);
    // Another process counts anew, the first look has nothing to compare with, and nothing runs backwards.
    let restarted = Row::new(&running, Some(&Sample { pid: 1, ..old.clone() }), Some(&new));
    let first = Row::new(&running, None, Some(&new));
    for row in [restarted, first] {
        assert_eq!((row.cpu, row.disk.unwrap().rates), (None, None));
    }
    let backwards = Row::new(&running, Some(&old), Some(&new));
    assert_eq!((backwards.cpu, backwards.disk.unwrap().rates), (Some(0.0), Some([0.0, 0.0])));
    let same_moment = Row::new(&running, Some(&old), Some(&Sample { at: old.at, ..new }));
    assert_eq!(same_moment.cpu, None);
}

#[test]
fn the_table_and_the_lines() {
    insta::assert_snapshot!(table(&rows()), @r"
    MACHINE   STATE     CPU %     MEMORY  HOST  READ/s  WRITE/s  IN/s  OUT/s         UP
    web       running   150.0  324M/1.0G  300M    1.5M        0  1.5K     15  1 h 2 min
    database  poweroff      -          -     -       -        -     -      -          -
    ");
    insta::assert_snapshot!(rows().iter().map(line).collect::<Vec<_>>().join("\n"), @r"
    web: running, cpu 150.0 %, memory 324M/1.0G, host 300M, disk 1.5M/s read 0/s written, net 1.5K/s in 15/s out, up 1 h 2 min
    database: poweroff, cpu - %, memory -, host -, disk -/s read -/s written, net -/s in -/s out, up -
    ");
}

#[test]
fn the_document() {
    let value = document(&rows(), Duration::from_secs(2));
    assert_eq!(value["seconds"], 2.0);
    let (web, database) = (&value["machines"][0], &value["machines"][1]);
    assert_eq!(web["cpu_percent"], 150.0);
    assert_eq!(
        (&web["disk"]["read"], &web["net"]["received_per_second"]),
        (&(13 << 20).into(), &1500.0.into())
    );
    assert!(database["memory"].is_null() && database["cpu_percent"].is_null());
}

#[test]
fn a_picture_fits_the_terminal() {
    let picture = frame("HEAD and more\nfirst\nsecond\nthird\n", "q ends", 6, 4);
    assert_eq!(picture, "\x1b[H\x1b[7mHEAD a\x1b[0m\x1b[K\r\nfirst\x1b[K\r\n\x1b[K\r\n2 more\x1b[K\x1b[J");
    // A terminal of one line is no reason to fail.
    assert!(frame("HEAD\nx\n", "q ends", 1, 1).ends_with("\x1b[K\x1b[J"));
}

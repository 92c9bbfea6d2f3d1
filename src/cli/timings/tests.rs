use super::*;
use crate::model::Silent;

fn at(begin: Instant, start: u64, took: u64, machine: &str, phase: Phase) -> Event {
    Event::Timed {
        machine: machine.into(),
        phase,
        began: begin + Duration::from_millis(start),
        took: Duration::from_millis(took),
    }
}

/// A chart as it is made of events that came in no order.
fn chart(step: &str) -> Chart {
    let begin = Instant::now();
    let collector = Collector::new(&Silent);
    collector.event(at(begin, 300, 600, "web", Phase::Step(step.into())));
    collector.event(at(begin, 0, 5, "db", Phase::Plan));
    collector.event(at(begin, 20, 80, "web", Phase::Kernel));
    collector.event(at(begin, 100, 150, "web", Phase::UserSpace));
    collector.event(at(begin, 0, 10, "web", Phase::Vmm));
    let chart = Chart::new("web", begin, Duration::from_secs(1), true, &collector.take("web"));
    assert_eq!(collector.take("web").len(), 0, "spans are told once");
    assert_eq!(collector.take("db").len(), 1, "those of another machine are left");
    Chart { provider: Some("kvm"), box_name: Some("debian/13".into()), ..chart }
}

#[test]
fn a_table_for_people() {
    insta::assert_snapshot!(chart("nginx").text(), @r"
    web                  ms      %
    ------------------------------
    VMM                10.0    1.0
    kernel             80.0    8.0
    user space        150.0   15.0
    step: nginx       600.0   60.0
    other             160.0   16.0
    total            1000.0  100.0
    ");
}

#[test]
fn a_document_for_programs() {
    let text = serde_json::to_string_pretty(&chart("nginx")).unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "version": 1,
      "machine": "web",
      "provider": "kvm",
      "box": "debian/13",
      "completed": true,
      "total_ms": 1000.0,
      "other_ms": 160.0,
      "phases": [
        {
          "phase": "vmm",
          "name": null,
          "start_ms": 0.0,
          "duration_ms": 10.0
        },
        {
          "phase": "kernel",
          "name": null,
          "start_ms": 20.0,
          "duration_ms": 80.0
        },
        {
          "phase": "user_space",
          "name": null,
          "start_ms": 100.0,
          "duration_ms": 150.0
        },
        {
          "phase": "step",
          "name": "nginx",
          "start_ms": 300.0,
          "duration_ms": 600.0
        }
      ]
    }
    "#);
}

#[test]
fn every_event_is_handed_on() {
    struct Count(Mutex<u32>);
    impl Reporter for Count {
        fn event(&self, _: Event) {
            *self.0.lock().unwrap() += 1;
        }
    }
    let count = Count(Mutex::new(0));
    let collector = Collector::new(&count);
    collector.event(at(Instant::now(), 0, 1, "web", Phase::Plan));
    collector.event(Event::Stage { machine: None, text: "x".into() });
    assert_eq!(*count.0.lock().unwrap(), 2);
    assert_eq!(collector.take("web").len(), 1);
}

/// The texts between tags and in attributes, after a strict reading of the tags: each is closed,
/// in order, and attributes are quoted.
fn read_xml(xml: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut open = Vec::new();
    let mut rest = xml.trim_end();
    while let Some(start) = rest.find('<') {
        texts.push(rest[..start].to_owned());
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap().to_owned());
        }
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest:?}");
    texts
}

fn resolve(text: &str) -> String {
    let mut out = text.to_owned();
    for (name, c) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")] {
        out = out.replace(name, c);
    }
    out
}

#[test]
fn a_picture_is_well_formed_and_loads_nothing() {
    let picture = svg::draw(&chart("nginx"));
    let texts = read_xml(&picture);
    for label in ["step: nginx", "user space", "web: 1.00 s, debian/13, kvm"] {
        assert!(texts.iter().any(|text| text == label), "{label} in {texts:?}");
    }
    assert_eq!(picture.matches("http").count(), 1, "the name space only");
    assert!(!picture.contains("href") && !picture.contains("url(") && !picture.contains("script"));
}

#[test]
fn hostile_names_stay_text() {
    let name = "</text><script>alert(\"1\")</script>&amp;'\u{1b}[31m\u{0}\u{ffff}";
    let picture = svg::draw(&chart(name));
    let texts = read_xml(&picture);
    assert!(!picture.contains("<script") && !picture.contains('\u{1b}') && !picture.contains('\u{0}'));
    let shown = name.replace(['\u{1b}', '\u{0}', '\u{ffff}'], "\u{fffd}");
    assert!(texts.iter().any(|text| resolve(text) == format!("step: {shown}: 600 ms")), "{texts:?}");
}

#[test]
fn extreme_times_draw() {
    for total in [Duration::ZERO, Duration::from_micros(1), Duration::from_secs(1 << 40)] {
        let chart = Chart::new("web", Instant::now(), total, false, &[]);
        let picture = svg::draw(&chart);
        read_xml(&picture);
        assert!(picture.contains("not completed") && picture.lines().count() < 40, "{picture}");
        assert!(chart.text().contains("total"));
    }
}

#[test]
fn files_are_written_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    chart("nginx").write(&dir.path().join("web.v1")).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("web.v1.json")).unwrap()).unwrap();
    assert_eq!(json["phases"][3]["name"], "nginx");
    assert!(std::fs::read_to_string(dir.path().join("web.v1.svg")).unwrap().starts_with("<svg"));
    let (path, _) = chart("x").write(&dir.path().join("absent/web")).unwrap_err();
    assert!(path.ends_with("absent/web.json"));
}

//! `rvm graph`: the file alone is drawn.

use super::Place;

const FILE: &str = r#"
box = "micro"

[[machine]]
name = "web"
count = 2
depends_on = ["db"]
network = [{ private = "backend" }]

[[machine]]
name = "db"
network = [{ private = "backend", ip = "10.10.0.5" }]

[[machine.port]]
guest = 5432
host = 5432
"#;

#[test]
fn a_project_is_drawn_without_a_machine_or_a_store() {
    let place = Place::with(FILE);
    let ran = place.run(&["graph"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.starts_with("Order: db → web-1, web-2\n\ndb  micro, "), "{}", ran.stdout);
    let ran = place.run(&["graph", "--svg", "graph.svg"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(ran.stderr, "The picture is in [DIR]/project/graph.svg.\n");
    let picture = std::fs::read_to_string(place.project().join("graph.svg")).unwrap();
    assert_eq!(place.run(&["graph", "--svg", "-"]).stdout, picture);
    assert!(picture.contains(">web-2</text>") && picture.contains(">project</text>"), "{picture}");
    assert!(!place.home().exists(), "looking leaves no files");
    let nowhere = place.run(&["graph", "--svg", "no/such/folder.svg"]);
    assert_eq!(nowhere.code, 1);
    assert!(nowhere.stderr.contains("cannot write [DIR]/project/no/such/folder.svg"), "{}", nowhere.stderr);
    assert_eq!(place.run(&["graph", "--svg", "-", "--json"]).code, 2);
}

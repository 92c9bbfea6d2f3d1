//! Every code of an error is given by something: none is left over in the registry. That each has an
//! entry in `docs/errors.md`, and each entry a code, is tested beside `rvm explain`.

use std::fs;
use std::path::Path;

use rvm::model::Code;

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("model/code.rs") {
            let source = fs::read_to_string(&path).unwrap();
            // What only a test says is said by nobody.
            text.push_str(source.split("#[cfg(test)]").next().unwrap());
        }
    }
}

#[test]
fn no_code_is_left_over() {
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let words: std::collections::HashSet<&str> = text
        .split("Code::")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
        .collect();
    let unused: Vec<&str> = Code::ALL.iter().map(|code| code.name()).filter(|n| !words.contains(n)).collect();
    assert_eq!(unused, [""; 0], "in src/model/code.rs, given by no error");
}

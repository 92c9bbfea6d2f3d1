//! A Ruby Vagrantfile as somebody wrote it. What comes out is TOML that can be read back.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use rvm::import;

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let data = u.peek_bytes(u.len()).unwrap_or_default();
    let source = String::from_utf8_lossy(data);
    for text in [source.as_ref(), &format!("Vagrant.configure(2) do |config|\n{source}\nend\n")] {
        if let Ok(imported) = import::import(text, "Vagrantfile") {
            let read: std::result::Result<toml::Table, _> = imported.toml.parse();
            assert!(read.is_ok(), "{read:?}\n{}", imported.toml);
        }
    }
    Ok(())
}

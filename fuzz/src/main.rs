//! All fuzz targets in one program: one build, one link. `RVM_FUZZ_TARGET` names the target, the
//! arguments are libFuzzer's. `scripts/fuzz.sh` runs it.
#![no_main]

mod rig;
mod targets;
mod wires;

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// A target reads what it does from its input; `Err` only says that the input is at its end.
type Target = fn(&mut Unstructured<'_>) -> Result<()>;

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("RVM_FUZZ_TARGET").unwrap_or_default();
        let found = targets::ALL.iter().find(|(known, _)| *known == name);
        let Some((_, target)) = found else {
            let names: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
            eprintln!("RVM_FUZZ_TARGET has to be one of: {}", names.join(" "));
            std::process::exit(2);
        };
        let _ = TARGET.set(*target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            let _ = target(&mut Unstructured::new(data));
        }
    }
);

//! Ruby Vagrantfiles → TOML: `rvm import`.
//!
//! `prism` parses the Ruby ([`parse`]), [`eval`] works out what it says without running any of it,
//! [`map`] puts that into the words of our configuration, [`write`] makes text of it. Each line that
//! could not be carried over is told with its reason.

mod draft;
mod eval;
mod left;
mod map;
mod parse;
mod tree;
mod value;
mod write;

use std::thread;

use left::Notes;
pub use left::{Left, Sort};

/// Bytes of a Ruby file that is read. The largest of known projects have two thirds of it; prism
/// takes time by the square of what is nested.
pub const LARGEST: usize = 64 * 1024;

/// Stack for the work. Prism nests 10,000 levels deep before it refuses, which took 8 MiB to
/// 16 MiB without optimisation; the walk over its tree and the evaluation take less.
const STACK: usize = 64 * 1024 * 1024;

/// The TOML, and what is not in it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The text of the file, with a list of what is not in it as its last comment.
    pub toml: String,
    /// Each line that was not carried over, in order.
    pub left: Vec<Left>,
}

impl Imported {
    /// Whether anything that means something to rvm was not carried over.
    pub fn is_complete(&self) -> bool {
        self.left.iter().all(|left| left.sort == Sort::Needless)
    }
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text is larger than [`LARGEST`].
    #[error("it is larger than {} KiB, which no Vagrantfile is", LARGEST / 1024)]
    TooLarge,
    /// It holds no `Vagrant.configure`.
    #[error("it is no Ruby Vagrantfile: nothing in it calls `Vagrant.configure`")]
    NotVagrant,
    /// Its TOML would be larger than `rvm` reads.
    #[error("it makes so many machines that its TOML would be larger than 1 MiB")]
    Endless,
    /// There is no thread to work in.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// The TOML for a Ruby Vagrantfile. `name` is what its comments call the file. Nothing is run
/// and no other file is read.
pub fn import(source: &str, name: &str) -> Result<Imported, ImportError> {
    if source.len() > LARGEST {
        return Err(ImportError::TooLarge);
    }
    thread::scope(|scope| {
        let work = thread::Builder::new()
            .name("import".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || work(source, name))
            .map_err(ImportError::Thread)?;
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn work(source: &str, name: &str) -> Result<Imported, ImportError> {
    /// What `config` reads.
    const MOST_TOML: usize = 1024 * 1024;
    let mut notes = Notes::new(source);
    let (statements, mistakes) = parse::parse(source);
    for (line, message) in mistakes {
        notes.add(Sort::Lost, (line, line), format!("Ruby would not read this: {message}"));
    }
    let said = eval::evaluate(&statements, &mut notes);
    if !said.configures {
        return Err(ImportError::NotVagrant);
    }
    let layers = map::map(said, &mut notes);
    let left = notes.into_list();
    let toml = write::write(&layers, name, &left);
    if toml.len() > MOST_TOML {
        return Err(ImportError::Endless);
    }
    Ok(Imported { toml, left })
}

//! Files → [`Project`](crate::model::Project): finds the `Vagrantfile`, reads it and the
//! ENV file, fills in variables, checks everything and tells all problems at once.
//!
//! The file is walked as a tree with spans instead of being handed to a deserializer: only
//! so can every problem be told in one run, each with its own place and suggestion.
//! `docs/config.md` is the reference of what is read here.

mod after;
mod ansible;
mod claims;
mod disks;
mod docker;
mod envfile;
mod error;
mod expand;
mod files;
mod find;
mod folders;
mod hooks;
mod host_cards;
mod include;
mod index;
mod keys;
mod kinds;
mod layer;
mod load;
mod lock;
mod login;
mod machines;
mod merge;
mod nats;
mod networks;
mod ports;
mod profiles;
mod read;
mod ready;
mod relations;
mod report;
mod ruby;
mod schema;
mod shares;
mod ssh;
mod steps;
mod suggest;
mod template;
mod units;
mod variables;
mod vars;
mod version;
mod volumes;
mod walk;

pub use error::ConfigError;
pub use find::find;
pub use load::{Inputs, load, load_with};
pub use lock::{lock_file, read_locks, render_locks};
pub use machines::is_box_name;
pub use report::Report;
pub use schema::schema;
pub use shares::Host;
pub use template::template;

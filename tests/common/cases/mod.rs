//! What a user relies on, as cases that run on either provider.

pub mod bridges;
pub mod console;
pub mod faults;
pub mod hardware;
pub mod kept;
pub mod life;
pub mod logins;
pub mod many;
pub mod networks;
pub mod plan;
pub mod programs;
pub mod routed;
pub mod shares;
pub mod steps;
pub mod systems;
pub mod walls;

/// The small box with little memory: most cases need no more.
pub const MICRO: &str = "box = \"micro\"\nmemory = \"128MiB\"\n";

/// Makes one test of each case for that provider.
#[macro_export]
macro_rules! cases {
    ($provider:literal: $($room:ident :: $case:ident),+ $(,)?) => {
        $(#[test]
        fn $case() {
            common::cases::$room::$case($provider);
        })+
    };
}

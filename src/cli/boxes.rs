//! `rvm box`: what machines are made from.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::app::{App, settings};
use super::error::CliError;
use super::json::VERSION;
use super::ui::table::{bytes, table};
use super::{DONE, Json, Outcome};
use crate::image::{BoxImage, Store};
use crate::machine::Machines;
use crate::model::{Code, KernelChoice};

/// What all boxes are built for, in Vagrant's words.
const ARCHITECTURE: &str = "amd64";

/// `rvm box …`.
#[derive(Debug, Subcommand)]
pub enum BoxVerb {
    /// Build a box into the store, before a machine needs it
    Add(AddArgs),
    /// Show the boxes in the store
    List(ListArgs),
    /// Remove a box from the store
    Remove(RemoveArgs),
}

/// Words of `rvm box add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Name of the box, such as debian/13
    #[arg(value_name = "BOX")]
    name: String,
    /// Kernel to have ready with it, stock (the distribution's own) or fast (which rvm builds);
    /// may be repeated
    #[arg(long = "kernel", value_enum, value_name = "KERNEL", default_values_t = [Kernel::Stock])]
    #[arg(hide_possible_values = true)]
    kernels: Vec<Kernel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kernel {
    /// The distribution's own
    Stock,
    /// The one that rvm builds from Debian's kernel source
    Fast,
}

/// Words of `rvm box list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub(super) json: Json,
}

/// Words of `rvm box remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Name of the box, such as debian/13
    #[arg(value_name = "BOX")]
    name: String,
    /// Remove it even if machines were made from it: they cannot start any more
    #[arg(short, long)]
    force: bool,
}

/// Runs the sub-verb.
pub fn run(app: &App, verb: &BoxVerb) -> Outcome {
    let store = Store::new(app.layout()?, settings());
    match verb {
        BoxVerb::Add(args) => add(app, &store, args),
        BoxVerb::List(_) => list(app, &store),
        BoxVerb::Remove(args) => remove(app, &store, args),
    }
}

fn add(app: &App, store: &Store, args: &AddArgs) -> Outcome {
    let image = store.ensure_box(&args.name, None, &*app.ui, &app.cancel)?;
    for kernel in &args.kernels {
        let choice = match kernel {
            Kernel::Stock => KernelChoice::Stock,
            Kernel::Fast => KernelChoice::Fast,
        };
        let kernel = store.ensure_kernel(&image, choice, &*app.ui, &app.cancel)?;
        app.ui.note(&format!("The kernel {} ({}) is in the store.", kernel.version, choice.as_str()));
    }
    let digest = image.digest.get(..12).unwrap_or(&image.digest);
    app.ui.note(&format!("The box {} ({digest}) is in the store.", image.name));
    Ok(DONE)
}

fn list(app: &App, store: &Store) -> Outcome {
    let boxes = store.list()?;
    if app.json {
        let list: Vec<Value> = boxes.iter().map(document).collect();
        app.ui.json(&json!({ "version": VERSION, "boxes": list }));
    } else {
        boxes.iter().for_each(|image| lines(app, image));
        app.ui.result(&text(&boxes));
    }
    Ok(DONE)
}

/// The lines of `--machine-readable`. A box of rvm has its digest in place of a version.
fn lines(app: &App, image: &BoxImage) {
    let say = |kind, data: &[&str]| app.ui.machine("", kind, data);
    say("box-name", &[&image.name]);
    say("box-provider", &["rvm"]);
    say("box-version", &[&image.digest]);
    say("box-architecture", &[ARCHITECTURE]);
    say("box-info", &["kernel", &image.kernel_version]);
    say("box-info", &["user", &image.default_user]);
}

fn document(image: &BoxImage) -> Value {
    json!({
        "name": image.name,
        "digest": image.digest,
        "directory": image.dir.display().to_string(),
        "disk_bytes": image.size,
        "default_disk_bytes": image.default_disk,
        "created": image.created,
        "kernel": image.kernel_version,
        "user": image.default_user,
        "packages": image.packages.len(),
    })
}

fn text(boxes: &[BoxImage]) -> String {
    if boxes.is_empty() {
        return "There are no boxes yet. `rvm up` makes the one that a machine needs.".into();
    }
    let rows: Vec<Vec<String>> = boxes
        .iter()
        .map(|image| {
            let digest = image.digest.get(..12).unwrap_or(&image.digest);
            vec![image.name.clone(), digest.to_owned(), bytes(image.size), image.kernel_version.clone()]
        })
        .collect();
    table(&["name", "digest", "disk", "kernel"], &rows).trim_end().to_owned()
}

fn remove(app: &App, store: &Store, args: &RemoveArgs) -> Outcome {
    let users = users(&app.machines()?, &args.name)?;
    if !users.is_empty() && !args.force {
        return Err(CliError::failed(Code::BoxInUse, format!(
            "cannot remove the box {}: machines were made from it ({})",
            args.name,
            users.join(", ")
        ))
        .hint("`rvm destroy` them first; with -f the box is removed all the same, and they cannot start any more"));
    }
    store.remove(&args.name)?;
    app.ui.note(&format!("Removed the box {}.", args.name));
    Ok(DONE)
}

/// Machines whose disks lie on the box.
fn users(machines: &Machines<'_>, name: &str) -> Result<Vec<String>, CliError> {
    let all = machines.all()?;
    let users = all.iter().filter(|status| status.box_name == name);
    Ok(users.map(|status| format!("{} in {}", status.name, status.project.display())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list() {
        let image = BoxImage {
            name: "debian/13".into(),
            digest: "0123456789abcdef0123".into(),
            dir: "/b".into(),
            root_disk: "/b/root.img".into(),
            size: 2 << 30,
            default_disk: 10 << 30,
            created: 0,
            recipe: String::new(),
            suite: "trixie".into(),
            snapshot: 0,
            kernel_version: "6.12.48+deb13-cloud-amd64".into(),
            default_user: "vagrant".into(),
            agent: true,
            agent_ssh: true,
            mirror: "http://deb.debian.org/debian".into(),
            packages: vec![("sudo".into(), "1".into())],
        };
        insta::assert_snapshot!(text(&[image]), @r"
        name       digest        disk     kernel
        -----------------------------------------------------------
        debian/13  0123456789ab  2.0 GiB  6.12.48+deb13-cloud-amd64
        ");
    }
}

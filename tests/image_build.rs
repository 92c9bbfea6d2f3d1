//! Builds the `micro` box for real, from the package mirror of this host.
//!
//! `RVM_TEST_STORE` names a store (an absolute path) to build into and to keep, so that tests
//! which boot the box find it there; without it the box goes to a temporary folder.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rvm::image::{Settings, Store, check_overlay, create_overlay};
use rvm::model::{Cancel, Event, KernelChoice, Reporter};
use rvm::state::Layout;

/// Keeps the progress of a build.
#[derive(Default)]
struct Steps(Mutex<Vec<(u64, u64)>>);

impl Reporter for Steps {
    fn event(&self, event: Event) {
        if let Event::Progress { done, total, .. } = event {
            self.0.lock().unwrap().push((done, total));
        }
    }
}

fn read_at(path: &Path, at: u64, length: usize) -> Vec<u8> {
    let mut file = fs::File::open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut data = vec![0; length];
    file.read_exact(&mut data).unwrap();
    data
}

#[test]
fn micro_is_built_once_from_the_mirror() {
    let temporary = tempfile::tempdir().unwrap();
    let home = std::env::var_os("RVM_TEST_STORE").map_or(temporary.path().join("store"), PathBuf::from);
    let settings = Settings { mirror: std::env::var("RVM_MIRROR").ok(), ..Settings::default() };
    let store = Store::new(Layout::at(&home), settings);
    let was_there = store.find_box("micro").unwrap().is_some();
    let steps = Steps::default();
    let image = match store.ensure_box("micro", None, &steps, &Cancel::new()) {
        Ok(image) => image,
        Err(error) => panic!("{error}\n{}", error.hint().unwrap_or_default()),
    };

    let steps = steps.0.into_inner().unwrap();
    if was_there {
        assert!(steps.is_empty());
    } else {
        assert_eq!(steps.last(), Some(&(100, 100)));
        assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{steps:?}");
    }

    // ext4 (Documentation/filesystems/ext4/super.rst): magic at 0x38, label at 0x78.
    let superblock = read_at(&image.root_disk, 1024, 1024);
    assert_eq!(superblock[0x38..0x3a], [0x53, 0xef]);
    assert_eq!(&superblock[0x78..0x81], b"rvm-root\0");
    let meta = fs::metadata(&image.root_disk).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (image.size, 0o444));
    assert!(meta.blocks() * 512 < image.size * 3 / 4, "the image is not sparse");

    let kernel = store.ensure_kernel(&image, KernelChoice::Stock, &Steps::default(), &Cancel::new()).unwrap();
    assert_eq!(read_at(&kernel.vmlinux, 0, 4), b"\x7fELF");
    let initrd = fs::read(kernel.initrd.unwrap()).unwrap();
    assert!(initrd.starts_with(b"070701"));
    for module in ["virtio_mmio", "virtio_blk", "virtio_net", "isofs"] {
        let name = format!("modules/{module}.ko");
        assert!(initrd.windows(name.len()).any(|w| w == name.as_bytes()), "{name}");
    }
    for name in ["busybox-static", "dropbear-bin", "sudo"] {
        assert!(image.packages.iter().any(|(n, version)| n == name && !version.is_empty()), "{name}");
    }
    assert!(kernel.version.contains("cloud"), "{}", kernel.version);

    // Nothing of the build is left, and nothing is built twice.
    let parent = image.dir.parent().unwrap();
    assert!(
        fs::read_dir(parent).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
    let again = Steps::default();
    assert_eq!(store.ensure_box("micro", None, &again, &Cancel::new()).unwrap(), image);
    assert!(again.0.into_inner().unwrap().is_empty());

    let disk = temporary.path().join("disk.qcow2");
    create_overlay(&image, &disk, image.default_disk).unwrap();
    check_overlay(&disk).unwrap();
}

#[test]
fn an_unreachable_mirror_leaves_nothing_and_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    // Port 1 of this host: refused at once.
    let settings = Settings { mirror: Some("http://127.0.0.1:1/debian".into()), ..Settings::default() };
    let store = Store::new(Layout::at(temporary.path().join("store")), settings);
    let error = store.ensure_box("micro", None, &Steps::default(), &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(error.hint().unwrap().contains("mirror cannot be reached"), "{error}");
    assert_eq!(store.find_box("micro").unwrap(), None);
    assert_eq!(fs::read_dir(temporary.path().join("store/boxes/micro")).unwrap().count(), 0);
}

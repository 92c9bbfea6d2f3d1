//! The kernel command line.

use super::Error;
use crate::vmm::layout::CMDLINE_MAX;

/// A virtio-mmio device that the command line announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest-physical start of its registers, 4 KiB long.
    pub base: u64,
    /// Interrupt.
    pub gsi: u32,
}

/// `cmdline` with `virtio_mmio.device=` for each device, in front of a `--` that ends what is
/// the kernel's own and begins what is for init.
pub fn with_devices(cmdline: &str, devices: &[MmioDevice]) -> String {
    let (kernel, init) = match cmdline.split_once(" -- ") {
        Some((kernel, init)) => (kernel, Some(init)),
        None => (cmdline, None),
    };
    let mut full = kernel.trim().to_owned();
    for MmioDevice { base, gsi } in devices {
        if !full.is_empty() {
            full.push(' ');
        }
        full.push_str(&format!("virtio_mmio.device=4K@{base:#x}:{gsi}"));
    }
    if let Some(init) = init {
        full.push_str(" -- ");
        full.push_str(init.trim());
    }
    full
}

/// Whether the kernel takes all of `cmdline`.
///
/// # Errors
/// [`Error::CmdlineTooLong`] and [`Error::CmdlineCharacter`].
pub fn check(cmdline: &str) -> Result<(), Error> {
    if cmdline.contains(['\0', '\n', '\r']) {
        return Err(Error::CmdlineCharacter);
    }
    let max = CMDLINE_MAX - 1;
    if cmdline.len() > max {
        return Err(Error::CmdlineTooLong { len: cmdline.len(), max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: [MmioDevice; 2] =
        [MmioDevice { base: 0xd000_0000, gsi: 5 }, MmioDevice { base: 0xd000_1000, gsi: 16 }];

    #[test]
    fn devices_are_announced_before_what_is_for_init() {
        assert_eq!(
            with_devices("console=ttyS0 -- single", &DEVICES),
            "console=ttyS0 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:16 -- single"
        );
        assert_eq!(with_devices("", &DEVICES[..1]), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(with_devices("quiet", &[]), "quiet");
    }

    #[test]
    fn long_and_broken_lines_are_refused() {
        assert!(check(&"a".repeat(2047)).is_ok());
        assert!(matches!(check(&"a".repeat(2048)), Err(Error::CmdlineTooLong { len: 2048, max: 2047 })));
        assert!(matches!(check("a\0b"), Err(Error::CmdlineCharacter)));
        assert!(matches!(check("a\nb"), Err(Error::CmdlineCharacter)));
    }
}

//! The page that a virtual CPU shares with KVM (`struct kvm_run`), mapped a second time so that
//! other threads can reach into it while the CPU's own thread is inside KVM.
#![allow(unsafe_code)]

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use kvm_bindings::{kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4 as PortExit};
use kvm_ioctls::VcpuFd;

/// Bytes mapped: the fields used are in the first page.
const LEN: usize = 4096;

/// One virtual CPU's page.
#[derive(Debug)]
pub struct SharedPage {
    page: *mut u8,
}

// SAFETY: the mapping belongs to this value alone, and what is done with it is atomic.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps the page of `vcpu`; it stays valid when the CPU itself is gone.
    ///
    /// # Errors
    /// When the host does not map it.
    pub fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), LEN, prot, libc::MAP_SHARED, vcpu.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { page: page.cast() })
    }

    /// Makes every entry into the guest return at once, from now on.
    pub fn exit_immediately(&self) {
        let at = self.page.wrapping_add(offset_of!(kvm_run, immediate_exit));
        // SAFETY: the byte is inside our mapping, and KVM expects it to change at any time.
        unsafe { AtomicU8::from_ptr(at) }.store(1, Ordering::Release);
    }

    /// Why KVM gave up: `internal.suberror`, meaningful after `KVM_EXIT_INTERNAL_ERROR` only.
    pub fn internal_suberror(&self) -> u32 {
        let at = self.page.wrapping_add(offset_of!(kvm_run, __bindgen_anon_1)).cast::<u32>();
        // SAFETY: the union starts inside our mapping at a multiple of 8, the field at its start.
        unsafe { AtomicU32::from_ptr(at) }.load(Ordering::Acquire)
    }

    /// Bytes of one access to a port: `io.size`, meaningful after `KVM_EXIT_IO` only, which has as many of them
    /// as a string instruction repeats.
    pub fn port_access_size(&self) -> u8 {
        let at = self.page.wrapping_add(offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(PortExit, size));
        // SAFETY: the union starts inside our mapping, and the field is a byte within it.
        unsafe { AtomicU8::from_ptr(at) }.load(Ordering::Acquire)
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, with this length, and used by nobody else.
        unsafe { libc::munmap(self.page.cast(), LEN) };
    }
}

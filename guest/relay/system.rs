//! What a C library would do. `guest/agent` has the like of it, in its one file: what that consists of
//! is part of every box's digest.

use core::arch::{asm, global_asm};

/// System call numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub mod call {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const POLL: usize = 7;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const RECVFROM: usize = 45;
    pub const EXIT: usize = 60;
}

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

extern "C" fn entry() -> ! {
    crate::main()
}

pub fn exit(code: usize) -> ! {
    loop {
        syscall([call::EXIT, code, 0, 0, 0, 0, 0]);
    }
}

/// A system call: its number and up to six arguments; what the kernel answers. One that a signal cut short
/// is made again: none is handled here.
pub fn syscall([number, a, b, c, d, e, f]: [usize; 7]) -> isize {
    const EINTR: isize = -4;
    loop {
        let result: isize;
        // SAFETY: the arguments are numbers, or addresses of values that the callers keep for the call
        // and that are as long as they say.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") a,
                in("rsi") b,
                in("rdx") c,
                in("r10") d,
                in("r8") e,
                in("r9") f,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        if result != EINTR {
            return result;
        }
    }
}

/// What the compiler calls for itself where there is no C library.
mod memory {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `memcpy`.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= len {
            // SAFETY: the caller keeps the contract of `memmove`; forwards, nothing is written before it
            // is read.
            return unsafe { memcpy(to, from, len) };
        }
        for at in (0..len).rev() {
            // SAFETY: as above, and backwards here. Volatile, so that it does not become `memmove` again.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `memset`.
        unsafe {
            asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8);
        }
        to
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

//! The `livemill` command: everything it does is in the library.

use std::process::ExitCode;

/// Players come and go by the thousand with small buffers: this gives their memory back, and does not fragment.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A child of exec begins here, and is somebody else a moment later.
    if let Some(failed) = livemill::actors::support::child::become_command(std::env::args_os()) {
        return ExitCode::from(failed);
    }
    // The allocator takes address space by the gigabyte and touches little of it: whole huge pages for each thread's
    // corner would be megabytes of nothing. Where the kernel does not know the call, nothing is lost.
    let _ = nix::sys::prctl::set_thp_disable(true);
    livemill::cli::main()
}

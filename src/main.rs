//! The `livemill` command: everything it does is in the library.

use std::process::ExitCode;

/// Players come and go by the thousand with small buffers: this gives their memory back, and does not fragment.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    livemill::cli::main()
}

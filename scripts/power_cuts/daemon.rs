//! `sessionfs` with the switches of its tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    match sessionfs::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.status()
        }
    }
}

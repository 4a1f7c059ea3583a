//! `sessionfs`: see `sessionfs --help`.

use std::process::ExitCode;

use sessionfs::cli;

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.status()
        }
    }
}

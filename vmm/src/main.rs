//! The `vmm` command. All it does lives in the library, so that tests reach it too.

fn main() -> std::process::ExitCode {
    vmm::cli::main()
}

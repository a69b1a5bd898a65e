//! The options that every bench with tables has.

use clap::Args;

/// Where the tables go, and whether the bench only tries itself.
#[derive(Args)]
pub(crate) struct Output {
    /// Write the tables to this file, too
    #[arg(long)]
    out: Option<String>,
    /// Do each work once and small, for its function only
    #[arg(long)]
    pub(crate) test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

impl Output {
    /// Prints the tables, and writes them to the file.
    pub(crate) fn write(&self, tables: &str) {
        println!("{tables}");
        if let Some(out) = &self.out {
            std::fs::write(out, tables).unwrap();
        }
    }
}

//! Compile a digest of the crate's sources in, so that a checkout can refuse an extension older than they are.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("src"))
        .expect("the crate has sources")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .chain([root.join("Cargo.toml"), root.join("build.rs")])
        .collect();
    files.sort_by_key(|path| path.file_name().map(|name| name.to_owned()));
    let mut crc = 0;
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        crc = crc32(crc, &fs::read(file).expect("a readable source"));
    }
    println!("cargo::rerun-if-changed={}", root.join("src").display());
    println!("cargo::rustc-env=SOURCE_DIGEST={crc:08x}");
}

/// CRC-32 as zlib computes it: bridge/media/native_relay.py repeats it with `zlib.crc32`.
fn crc32(previous: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!previous, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 }
            },
        )
    })
}

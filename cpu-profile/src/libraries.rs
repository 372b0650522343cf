//! Where libraries are in a process's memory, by `/proc/self/maps`: `START-END PERMISSIONS OFFSET DEVICE INODE PATH` a line, as proc(5)
//! says.

use std::ops::Range;

/// Those that hold locks which walking a stack takes, or whose tables for walking it are wrong, by the beginning of the file's name: C's,
/// the walker's, the loader's, and the kernel's own.
const LOCKING: [&str; 5] = ["libc.", "libgcc_s", "libpthread", "ld-linux", "[vdso]"];

/// The code of these.
pub(crate) fn locking(maps: &str) -> Vec<Range<u64>> {
    maps.lines().filter_map(locking_code).collect()
}

fn locking_code(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions, path) = (words.next()?, words.next()?, words.nth(3)?);
    let name = path.rsplit('/').next()?;
    let is_code = permissions.contains('x') && LOCKING.iter().any(|locking| name.starts_with(locking));
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    is_code.then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_libraries_with_locks_is_found_and_nothing_else() {
        let maps = "\
            5581e0a0-5581e0b0 r-xp 00001000 08:01 42    /usr/bin/libc.sidecar/metrics-sidecar\n\
            7f01000-7f02000 r--p 00000000 08:01 43    /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02000-7f03000 r-xp 00001000 08:01 43    /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f04000-7f05000 r-xp 00001000 08:01 44    /lib/libgcc_s.so.1\n\
            7f06000-7f07000 r-xp 00001000 08:01 45    /lib64/ld-linux-x86-64.so.2\n\
            7f08000-7f09000 r-xp 00001000 08:01 45    /lib/libcrypto.so.3\n\
            7f0a000-7f0b000 rw-p 00000000 00:00 0\n\
            7ffc000-7ffd000 r-xp 00000000 00:00 0     [vdso]\n\
            nonsense\n";
        assert_eq!(
            locking(maps),
            [0x7f0_2000..0x7f0_3000, 0x7f0_4000..0x7f0_5000, 0x7f0_6000..0x7f0_7000, 0x7ff_c000..0x7ff_d000]
        );
    }
}

//! The name of this machine.

/// Returns the name that the system was given, with its domain if it has one. Returns `None` where
/// it has none, or none that is text.
pub fn hostname() -> Option<String> {
    let name = system_name()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns the first label of [`hostname`]: `kitchen` for `kitchen.example.net`.
pub fn short_hostname() -> Option<String> {
    let name = hostname()?;
    let label = name.split('.').next().unwrap_or_default();
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(unix)]
fn system_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

#[cfg(not(unix))]
fn system_name() -> Option<String> {
    std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_name_is_the_one_that_the_kernel_knows() {
        let known = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(hostname().as_deref().unwrap_or_default(), known.trim());
    }

    #[test]
    fn the_short_name_is_one_label() {
        let (name, short) = (hostname().unwrap(), short_hostname().unwrap());
        assert!(name.starts_with(&short) && !short.contains('.'), "{name} {short}");
    }
}

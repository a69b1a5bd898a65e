//! Every text that the library and its examples take.
#![no_main]
#![allow(dead_code)]

use std::net::IpAddr;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use viproute::{Vip, VipManager};

#[path = "../../examples/controller/file.rs"]
mod file;
#[path = "../../examples/vip/parse.rs"]
mod parse;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    one(&text);
    for line in text.lines() {
        one(line);
    }
    let mut vips = Vec::new();
    let listed = parse::vips(data, &mut vips).is_ok();
    // The file of the controller says at most what the list says.
    match file::vips(data) {
        Ok(read) => assert!(listed && read == vips && data.ends_with(b"\n")),
        Err(why) => assert!(!why.is_empty()),
    }
});

/// One word.
fn one(text: &str) {
    let vip = text.parse::<Vip>();
    match &vip {
        Ok(vip) => {
            // What is written is read again, and a host is a host in whatever way it is said.
            assert_eq!(vip.to_string().parse::<Vip>().as_ref(), Ok(vip));
            let bits = if vip.addr().is_ipv4() { 32 } else { 128 };
            let net = IpNet::new(vip.addr(), bits).expect("a host");
            assert_eq!(Vip::try_from(net).as_ref(), Ok(vip));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let addr = text.parse::<IpAddr>();
    let net = text.parse::<IpNet>();
    if let Ok(net) = net {
        let is_host = net.prefix_len() == net.max_prefix_len();
        assert_eq!(Vip::try_from(net).is_ok(), is_host);
        assert_eq!(vip.is_ok(), is_host);
    } else {
        assert_eq!(addr.is_ok(), vip.is_ok());
    }
    match parse::vip(text) {
        Ok(said) => assert_eq!(vip.as_ref(), Ok(&said)),
        Err(why) => {
            assert!(vip.is_err() && !why.is_empty());
            // What it advises is an address.
            if let Some(mended) = why
                .strip_prefix("it has ")
                .map(|why| why.rsplit(' ').next())
            {
                assert!(
                    mended.is_some_and(|mended| mended.parse::<IpAddr>().is_ok()),
                    "{why}"
                );
            }
        }
    }
    assert_eq!(parse::range(text).is_ok(), net.is_ok());
    let _ = parse::count(text);
    let _ = parse::claim(text).map(|claim| format!("{claim:?}"));
    let time = parse::seconds(text);
    assert!(time.is_err() || time.is_ok_and(|time| !time.is_zero()));
    // A link's name; a manager that opens has a name that the kernel accepts.
    if VipManager::builder(text).open().is_ok() {
        assert!((1..16).contains(&text.len()) && !text.contains(['/', ':', '\0', ' ']));
    }
}

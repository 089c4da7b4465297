#![no_main]
softreg_fuzz::target!("arrow");

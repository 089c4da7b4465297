#![no_main]
softreg_fuzz::target!("svmlight");

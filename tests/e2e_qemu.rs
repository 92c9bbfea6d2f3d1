//! End to end on the provider `qemu`, with software emulation: runs on any machine.
//!
//! Builds the boxes and the kernel when the test store lacks them. `docs/testing.md` says more.

mod common;

cases! { "qemu":
    life::life_of_a_machine,
    life::two_machines_of_one_file,
    life::forwarded_ports,
    console::console_of_a_machine,
    hardware::four_cpus_four_gib_and_a_grown_disk,
    hardware::disks_beside_the_root_disk,
    hardware::a_guest_that_reboots_or_powers_off,
    steps::a_failed_step_is_where_the_next_up_resumes,
    steps::kinds_of_steps_and_when_they_run,
    steps::a_secret_reaches_only_the_step_that_names_it,
    logins::wrong_credentials_are_named,
    logins::bad_key_files_are_refused_early,
    faults::a_killed_machine_is_aborted_and_up_recovers,
    faults::an_up_cut_off_anywhere_is_finished_by_the_next,
    faults::two_ups_at_once_wait_for_each_other,
    faults::broken_files_are_named,
    faults::a_full_disk_is_named,
    walls::a_running_machine_is_shut_in,
    systems::debian_12_stock,
    systems::debian_12_fast,
    systems::debian_13_stock_late_then_with_packages,
    systems::debian_13_fast,
}

//! `make simulate`.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    simulation::run(&simulation::SimulationFlags::parse())
}

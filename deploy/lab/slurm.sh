#!/usr/bin/env bash
# Slurm with accounting: controller, compute daemon, slurmdbd with MariaDB, client commands, munge; and an SSH server, for
# workers that reach a submit node through it.
PART=slurm
PACKAGES=(slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core mariadb-client-core
          openssh-server openssh-client)
PROGRAMS=(slurmctld slurmd slurmdbd sbatch squeue sacct sacctmgr munged mariadbd mariadb-install-db my_print_defaults
          sshd ssh ssh-keygen)
version() { slurmctld -V | cut -d' ' -f2; }

. ./packages.sh
install_packages

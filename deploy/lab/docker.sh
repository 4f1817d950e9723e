#!/usr/bin/env bash
# Docker's daemon with containerd and runc, Compose, and busybox to make an image of.
PART=docker
PACKAGES=(docker.io containerd runc busybox-static docker-compose)
PROGRAMS=(dockerd containerd runc busybox docker-compose)
version() { dockerd --version | cut -d' ' -f3 | tr -d ,; }

. ./packages.sh
install_packages

#!/usr/bin/env bash
# Docker's daemon with containerd and runc, and busybox to make an image of.
PART=docker
PACKAGES=(docker.io containerd runc busybox-static)
PROGRAMS=(dockerd containerd runc busybox)
version() { dockerd --version | cut -d' ' -f3 | tr -d ,; }

. ./packages.sh
install_packages

//go:build !linux

package component

import "syscall"

func childAttr(chroot string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Chroot: chroot, Setpgid: true}
}

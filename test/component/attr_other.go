//go:build !linux

package component

import "syscall"

// ChildAttr makes a child in a process group of its own, whose root is chroot if that is not empty.
func ChildAttr(chroot string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Chroot: chroot, Setpgid: true}
}

package gateway

// identity is who is connected, in one string and where its parts end, for there may be a million.
type identity struct {
	names string // app, device, platform, instance and account, one behind the other
	ends  [4]uint16
}

// newIdentity keeps no string that it is given. token.Parse and maxDevice bound them.
func newIdentity(app, account, device, platform, instance string) (i identity) {
	i.names = app + device + platform + instance + account
	end := 0
	for n, s := range [...]string{app, device, platform, instance} {
		end += len(s)
		i.ends[n] = uint16(end)
	}
	return i
}

// app is the tenant; device, platform and instance are as the client says, "" for old ones.
func (i *identity) app() string      { return i.names[:i.ends[0]] }
func (i *identity) device() string   { return i.names[i.ends[0]:i.ends[1]] }
func (i *identity) platform() string { return i.names[i.ends[1]:i.ends[2]] }
func (i *identity) instance() string { return i.names[i.ends[2]:i.ends[3]] }
func (i *identity) account() string  { return i.names[i.ends[3]:] }

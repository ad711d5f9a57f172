package config

import (
	"reflect"
	"strings"
)

// EnvPrefix begins the names of all environment variables that set keys.
const EnvPrefix = "HERMOD_"

// Key describes one configuration key.
type Key struct {
	// Name is the key with its sections, as --set takes it: "gateway.tls.cert".
	Name string
	// Env is the environment variable that sets it: "HERMOD_GATEWAY__TLS__CERT".
	Env string
	// Type is text, bool, number, duration, size or list.
	Type string
	// Default is the value in Default(), as text; empty for none.
	Default string
	// Doc says what it means.
	Doc string
	// Secret: Print does not show its value, or not all of it.
	Secret bool
}

// Keys lists all keys in the order of Config.
func Keys() []Key {
	var keys []Key
	c := Default()
	walk(&c, func(l leaf) {
		keys = append(keys, Key{
			Name: l.name, Env: envName(l.name), Type: typeName(l.value), Default: format(l.value),
			Doc: l.doc, Secret: l.secret != "",
		})
	})
	return keys
}

// leaf is one key of a Config.
type leaf struct {
	name   string
	doc    string
	secret string // "": public, "all": never shown, "password": a DSN whose password is not shown
	value  reflect.Value
}

// walk calls f with every key of c in order; f may set the leaf's value.
func walk(c *Config, f func(leaf)) { walkStruct(reflect.ValueOf(c).Elem(), "", f) }

func walkStruct(v reflect.Value, section string, f func(leaf)) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := section + tag.Get("koanf")
		if v.Field(i).Kind() == reflect.Struct {
			walkStruct(v.Field(i), name+".", f)
			continue
		}
		f(leaf{name: name, doc: tag.Get("doc"), secret: tag.Get("secret"), value: v.Field(i)})
	}
}

// envName is the environment variable of a key: sections are separated by two underscores.
func envName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "__"))
}

// keyName is the inverse of envName.
func keyName(env string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, EnvPrefix), "__", "."))
}

func typeName(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "duration"
	case v.Type() == sizeType:
		return "size"
	case v.Kind() == reflect.Bool:
		return "bool"
	case v.Kind() == reflect.Int:
		return "number"
	case v.Kind() == reflect.Slice:
		return "list"
	default:
		return "text"
	}
}

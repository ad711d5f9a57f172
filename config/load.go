package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Sources are where values come from, each overriding those above it and all the base of Load.
type Sources struct {
	// File is the path of a YAML file; empty for none.
	File string
	// Environ is the environment, as os.Environ gives it: HERMOD_GATEWAY__READ_WAIT=1m sets
	// gateway.read_wait, lists are separated by commas. Variables with the prefix that name no key
	// are errors, except those of notKeys.
	Environ []string
	// Set is the values of the --set flags: gateway.read_wait=1m.
	Set []string
}

// notKeys are the variables with EnvPrefix that belong to tests, tools and the compose file. A
// pattern begins or ends with an asterisk, or has none.
var notKeys = [...]string{"HERMOD_TEST_*", "HERMOD_CACHE", "HERMOD_CONSUL", "HERMOD_FAULTS_SEED", "*_IMAGE"}

// Load puts the sources over base. The error has a line for every unknown key, with the known one
// closest to it, and for every value that is not of its key's type. It does not Validate.
func Load(base Config, s Sources) (Config, error) {
	layers := []func() (layer, error){
		func() (layer, error) { return fileLayer(s.File) },
		func() (layer, error) { return envLayer(s.Environ) },
		func() (layer, error) { return setLayer(s.Set) },
	}
	c := base
	var problems []error
	for _, load := range layers {
		l, err := load()
		problems = append(problems, err, l.apply(&c))
	}
	if err := errors.Join(problems...); err != nil {
		return Config{}, err
	}
	return c, nil
}

// layer is what one source sets.
type layer struct {
	source string              // where the values come from, for errors
	values map[string]any      // by key, flat
	spell  func(string) string // a key as the source spells it; nil: as is
}

func fileLayer(path string) (layer, error) {
	if path == "" {
		return layer{}, nil
	}
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return layer{}, fmt.Errorf("read config file %s: %w", path, err)
	}
	return layer{source: path, values: k.All()}, nil
}

func envLayer(environ []string) (layer, error) {
	k := koanf.New(".")
	err := k.Load(env.Provider("", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if isNotKey(name) {
				return "", nil // ignored
			}
			return keyName(name), value
		},
	}), nil)
	return layer{source: "the environment", values: k.All(), spell: envName}, err
}

func isNotKey(env string) bool {
	return slices.ContainsFunc(notKeys[:], func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(env, prefix)
		}
		if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
			return strings.HasSuffix(env, suffix)
		}
		return env == pattern
	})
}

func setLayer(set []string) (layer, error) {
	l := layer{source: "--set", values: map[string]any{}}
	var problems []error
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			problems = append(problems, fmt.Errorf("--set %s: must be key=value", s))
			continue
		}
		l.values[strings.TrimSpace(key)] = value
	}
	return l, errors.Join(problems...)
}

// apply sets the layer's values in c and reports all that is wrong with them.
func (l layer) apply(c *Config) error {
	var names []string
	problems := map[string]error{}
	walk(c, func(f leaf) {
		names = append(names, f.name)
		value, ok := l.values[f.name]
		if !ok || value == nil { // a YAML key without a value sets nothing
			return
		}
		if err := assign(f.value, value); err != nil {
			problems[f.name] = fmt.Errorf("%s: %s %w", l.source, l.spelled(f.name), err)
		}
	})
	for key, value := range l.values {
		if !slices.Contains(names, key) && !(isEmpty(value) && isSection(names, key)) {
			problems[key] = fmt.Errorf("%s: %s", l.source, l.unknown(names, key))
		}
	}
	return join(problems)
}

// isEmpty: a section of a YAML file with nothing in it.
func isEmpty(value any) bool {
	section, ok := value.(map[string]any)
	return value == nil || ok && len(section) == 0
}

func (l layer) spelled(key string) string {
	if l.spell == nil {
		return key
	}
	return l.spell(key)
}

func (l layer) unknown(names []string, key string) string {
	if isSection(names, key) {
		return fmt.Sprintf("%s is a section, not a key", l.spelled(key))
	}
	return fmt.Sprintf("unknown key %s: did you mean %s?", l.spelled(key), l.spelled(closest(names, key)))
}

func isSection(names []string, key string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, key+".") })
}

// join puts errors in the order of their keys.
func join(problems map[string]error) error {
	keys := make([]string, 0, len(problems))
	for k := range problems {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var list []error
	for _, k := range keys {
		list = append(list, problems[k])
	}
	return errors.Join(list...)
}

// closest is the name with the fewest edits to key. A key in the wrong section is closest to the
// one of the same last part.
func closest(names []string, key string) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	return slices.MinFunc(names, func(a, b string) int { return distance(a, key, last) - distance(b, key, last) })
}

func distance(name, key, last string) int {
	d := 2 * edits(name, key)
	if strings.HasSuffix(name, "."+last) {
		d = min(d, len(last)/2+edits(strings.TrimSuffix(name, last), strings.TrimSuffix(key, last)))
	}
	return d
}

// edits is the Levenshtein distance of two texts, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

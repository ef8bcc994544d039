// Tlogproof checks what `audit prove` and `audit publish` write with Go's own note and tlog packages, and nothing of
// ours: what it accepts, others' tools accept.
//
//	tlogproof FOLDER              entry.json, entry.tlog-proof, log.vkey and, unless it was withdrawn, payload.json
//	tlogproof tiles FOLDER KEYS   a whole log in the layout of c2sp.org/tlog-tiles, by the verifier keys in KEYS
//
// It says one line and exits with 0 if all of it holds, with 1 if not.
//
// Debian has all that it takes (golang-go, golang-golang-x-mod-dev):
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build tests/interop/tlogproof.go
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	header     = "c2sp.org/tlog-proof@v1"
	saltBytes  = 32
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

func main() {
	var said string
	var err error
	switch {
	case len(os.Args) == 2:
		said, err = checkEntry(os.Args[1])
	case len(os.Args) == 4 && os.Args[1] == "tiles":
		said, err = checkTiles(os.Args[2], os.Args[3])
	default:
		err = errors.New("usage: tlogproof FOLDER | tlogproof tiles FOLDER KEYS")
	}
	if err != nil {
		fmt.Printf("rejected: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(1)
	}
	fmt.Printf("accepted: %s\n", said)
}

// checkEntry checks one entry's proof, and the payload that the entry binds.
func checkEntry(folder string) (string, error) {
	entry, err := os.ReadFile(filepath.Join(folder, "entry.json"))
	if err != nil {
		return "", err
	}
	written, err := os.ReadFile(filepath.Join(folder, "entry.tlog-proof"))
	if err != nil {
		return "", err
	}
	index, proof, checkpoint, err := parseProof(string(written))
	if err != nil {
		return "", err
	}
	origin, tree, err := openCheckpoint([]byte(checkpoint), filepath.Join(folder, "log.vkey"))
	if err != nil {
		return "", err
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return "", fmt.Errorf("entry %d of %s in a tree of %d: %w", index, origin, tree.N, err)
	}
	payload, err := checkPayload(entry, filepath.Join(folder, "payload.json"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("entry %d of %s in a tree of %d, %s", index, origin, tree.N, payload), nil
}

// parseProof reads c2sp.org/tlog-proof@v1.
func parseProof(written string) (index int64, proof tlog.RecordProof, checkpoint string, err error) {
	head, checkpoint, found := strings.Cut(written, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || lines[0] != header {
		return 0, nil, "", errors.New("no file of " + header)
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if extra, err := unbase64(strings.TrimPrefix(lines[0], "extra ")); err != nil || len(extra) == 0 {
			return 0, nil, "", errors.New("the line of extra data is malformed")
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return 0, nil, "", errors.New("no line with an index")
	}
	if index, err = decimal(strings.TrimPrefix(lines[0], "index ")); err != nil {
		return 0, nil, "", fmt.Errorf("index: %w", err)
	}
	for _, line := range lines[1:] {
		hash, err := unhash(line)
		if err != nil {
			return 0, nil, "", err
		}
		proof = append(proof, hash)
	}
	return index, proof, checkpoint, nil
}

// openCheckpoint returns origin and head of a checkpoint (c2sp.org/tlog-checkpoint) that a key of its origin signed.
func openCheckpoint(written []byte, keys string) (origin string, tree tlog.Tree, err error) {
	verifiers, err := readKeys(keys)
	if err != nil {
		return "", tree, err
	}
	opened, err := note.Open(written, verifiers)
	if err != nil {
		return "", tree, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(opened.Text, "\n"), "\n")
	if len(lines) < 3 || lines[0] == "" {
		return "", tree, errors.New("checkpoint: not origin, size and root")
	}
	for _, line := range lines[3:] {
		if line == "" {
			return "", tree, errors.New("checkpoint: an empty extension line")
		}
	}
	if tree.N, err = decimal(lines[1]); err != nil {
		return "", tree, fmt.Errorf("checkpoint: size: %w", err)
	}
	if tree.Hash, err = unhash(lines[2]); err != nil {
		return "", tree, fmt.Errorf("checkpoint: root: %w", err)
	}
	for _, signature := range opened.Sigs {
		if signature.Name == lines[0] {
			return lines[0], tree, nil
		}
	}
	return "", tree, fmt.Errorf("checkpoint of %q: no key of that log signed it", lines[0])
}

// readKeys reads verifier keys, a line each.
func readKeys(path string) (note.Verifiers, error) {
	written, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []note.Verifier
	for _, line := range strings.Split(strings.TrimSuffix(string(written), "\n"), "\n") {
		verifier, err := note.NewVerifier(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		found = append(found, verifier)
	}
	return note.VerifierList(found...), nil
}

// checkPayload compares payload.json with the hash that the entry binds: SHA-256(salt || payload).
func checkPayload(entry []byte, path string) (string, error) {
	var envelope struct {
		PayloadHash string `json:"payload_hash"`
	}
	if err := json.Unmarshal(entry, &envelope); err != nil {
		return "", fmt.Errorf("entry.json: %w", err)
	}
	written, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "without its payload", nil
	}
	if err != nil {
		return "", err
	}
	var bound struct{ Salt, Payload *string }
	decoder := json.NewDecoder(bytes.NewReader(written))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&bound); err != nil {
		return "", fmt.Errorf("payload.json: %w", err)
	}
	if bound.Salt == nil || bound.Payload == nil {
		return "", errors.New("payload.json: salt or payload is missing")
	}
	salt, err := hex.DecodeString(*bound.Salt)
	if err != nil || len(salt) != saltBytes {
		return "", fmt.Errorf("payload.json: the salt is not %d bytes in hex", saltBytes)
	}
	hash := sha256.Sum256(append(salt, *bound.Payload...))
	if "sha256:"+hex.EncodeToString(hash[:]) != envelope.PayloadHash {
		return "", errors.New("payload.json: another payload or salt than the entry binds")
	}
	return "with its payload", nil
}

// checkTiles recomputes a published log from its entries: every tile and the checkpoint's root must follow from them.
func checkTiles(folder, keys string) (string, error) {
	written, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	if err != nil {
		return "", err
	}
	origin, tree, err := openCheckpoint(written, keys)
	if err != nil {
		return "", err
	}
	var hashes []tlog.Hash
	stored := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for nth, index := range indexes {
			found[nth] = hashes[index]
		}
		return found, nil
	})
	for first := int64(0); first < tree.N; first += tileWidth {
		width := int(tree.N - first)
		if width > tileWidth {
			width = tileWidth
		}
		entries, err := readBundle(folder, first/tileWidth, width)
		if err != nil {
			return "", err
		}
		for nth, entry := range entries {
			made, err := tlog.StoredHashes(first+int64(nth), entry, stored)
			if err != nil {
				return "", err
			}
			hashes = append(hashes, made...)
		}
	}
	root, err := tlog.TreeHash(tree.N, stored)
	if err != nil {
		return "", err
	}
	if root != tree.Hash {
		return "", fmt.Errorf("the entries lead to the root %v, the checkpoint of %d says %v", root, tree.N, tree.Hash)
	}
	checked := 0
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		partial := tree.N >> (tileHeight * tile.L) % tileWidth
		if tile.W < tileWidth && int64(tile.W) != partial {
			continue // Go's own log serves a tile of every width up to this one
		}
		checked++
		expected, err := tlog.ReadTileData(tile, stored)
		if err != nil {
			return "", err
		}
		found, err := os.ReadFile(tilePath(folder, tile))
		if err != nil {
			return "", err
		}
		if !bytes.Equal(found, expected) {
			return "", fmt.Errorf("%s is not what the entries lead to", tilePath("", tile))
		}
	}
	return fmt.Sprintf("%d entries and %d tiles of %s", tree.N, checked, origin), nil
}

// readBundle reads the entries of the nth bundle: each is its length in two bytes, then as many.
func readBundle(folder string, nth int64, width int) ([][]byte, error) {
	tile := tlog.Tile{H: tileHeight, L: -1, N: nth, W: width}
	rest, err := os.ReadFile(tilePath(folder, tile))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(rest) >= 2 {
		length := int(binary.BigEndian.Uint16(rest))
		if len(rest) < 2+length {
			break
		}
		entries, rest = append(entries, rest[2:2+length]), rest[2+length:]
	}
	if len(rest) != 0 || len(entries) != width {
		return nil, fmt.Errorf("%s does not hold %d entries", tilePath("", tile), width)
	}
	return entries, nil
}

// tilePath is where c2sp.org/tlog-tiles has a tile: Go's path without the height, `entries` for `data`.
func tilePath(folder string, tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
	return filepath.Join(folder, "tile", strings.Replace(path, "data/", "entries/", 1))
}

// decimal reads a number that is written in one way only.
func decimal(written string) (int64, error) {
	number, err := strconv.ParseInt(written, 10, 64)
	if err != nil || number < 0 || strconv.FormatInt(number, 10) != written {
		return 0, fmt.Errorf("%q is no decimal number", written)
	}
	return number, nil
}

func unhash(written string) (hash tlog.Hash, err error) {
	found, err := unbase64(written)
	if err != nil || len(found) != len(hash) {
		return hash, fmt.Errorf("%q is no hash", written)
	}
	copy(hash[:], found)
	return hash, nil
}

// unbase64 reads what is written in one way only: Go's decoder passes over ends of line and surplus bits.
func unbase64(written string) ([]byte, error) {
	found, err := base64.StdEncoding.DecodeString(written)
	if err == nil && base64.StdEncoding.EncodeToString(found) != written {
		err = errors.New("not canonical base64")
	}
	return found, err
}

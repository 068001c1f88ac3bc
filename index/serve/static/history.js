// Queries of this tab's history. Uploads stay in this browser (IndexedDB), so that Back finds them
// again, and the server keeps none.
"use strict";
window.delgHistory = (() => {
  const most = 20;
  const promised = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

  async function store(mode) {
    const opening = indexedDB.open("delg", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("queries", { keyPath: "key" });
    const database = await promised(opening);
    return database.transaction("queries", mode).objectStore("queries");
  }

  // Where the browser keeps nothing, as in some private windows, Back only loses the photo.
  async function put(key, value) {
    try {
      const queries = await store("readwrite");
      await promised(queries.put({ key, time: Date.now(), ...value }));
      const all = await promised(queries.getAll());
      all.sort((a, b) => b.time - a.time).slice(most).forEach((old) => queries.delete(old.key));
    } catch (error) {
      console.warn("the query is not kept for Back:", error);
    }
  }

  async function get(key) {
    try {
      return await promised((await store("readonly")).get(key));
    } catch {
      return undefined;
    }
  }

  const keyOf = (hash) => hash.startsWith("#query-") ? hash.slice(7) : "";
  return { put, get, keyOf, newKey: () => Math.random().toString(36).slice(2, 12) };
})();

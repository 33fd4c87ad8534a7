// Offers tags for the word at the cursor of a prompt: arrows choose, Tab or Enter takes one, Esc closes.
(() => {
  'use strict'
  const PROMPTS = '[id$="_prompt"] textarea, [id$="_negative"] textarea'
  const list = document.createElement('ul')
  list.className = 'tag-completion'
  list.setAttribute('role', 'listbox')
  list.translate = false
  let box = null, chosen = 0, asked = 0

  const isOpen = () => list.isConnected
  const close = () => { list.remove(); asked++ }
  const word = () => /[^,()\[\]{}<>|\n]*$/.exec(box.value.slice(0, box.selectionStart))[0].trimStart()

  function take(index) {
    const tag = list.children[index].dataset.tag.replace(/_/g, ' ').replace(/[()]/g, '\\$&')
    const end = box.selectionStart
    window.reprise.replace(box, end - word().length, end, `${tag}, `)
    close()
  }

  function choose(index) {
    chosen = (index + list.children.length) % list.children.length
    Array.from(list.children).forEach((item, i) => item.setAttribute('aria-selected', String(i === chosen)))
    list.children[chosen].scrollIntoView({ block: 'nearest' })
  }

  function show(tags) {
    if (!tags.length) return close()
    list.replaceChildren(...tags.map(({ tag, count }, index) => {
      const item = document.createElement('li'), small = document.createElement('small')
      item.setAttribute('role', 'option')
      item.dataset.tag = tag
      small.textContent = count
      item.append(tag, small)
      item.addEventListener('mousedown', (event) => { event.preventDefault(); take(index) })
      return item
    }))
    const place = box.getBoundingClientRect()
    Object.assign(list.style, { left: `${place.left}px`, top: `${place.bottom}px` })
    document.body.append(list)
    choose(0)
  }

  document.addEventListener('input', async (event) => {
    if (!event.target.matches?.(PROMPTS) || !event.isTrusted) return
    box = event.target
    const turn = ++asked
    if (word().length < 2) return close()
    const answer = await fetch(`api/ext/tag_completion/search?q=${encodeURIComponent(word())}`)
    if (answer.ok && turn === asked) show(await answer.json())
  })

  document.addEventListener('keydown', (event) => {
    if (!isOpen() || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return
    const moves = { ArrowDown: () => choose(chosen + 1), ArrowUp: () => choose(chosen - 1), Escape: close }
    const act = moves[event.key] || (['Tab', 'Enter'].includes(event.key) ? () => take(chosen) : null)
    if (!act) return
    event.preventDefault()
    event.stopPropagation()
    act()
  }, true)

  document.addEventListener('focusout', close)
})()
